"""
The `sandglass` command as a process, and a client made from `proto/sandglass.proto` by protoc
alone: what any client of the compatible protocol has. Nothing here or in the tests imports
`sandglass`; a tidy test says so.
"""

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import grpc_tools
import httpx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

PROTO = Path(__file__).parents[3] / "proto"
CALL_TIMEOUT_S = 60
COMMAND = (
    *(sys.executable, "-m", "sandglass.cli.server"),
    *("--grpc_port", "0", "--http_port", "0", "--log_format", "json"),
)


CODE = grpc.StatusCode
DEAD_LETTERS = "__death_letter"


def values(messages: Iterable[Any]) -> list[bytes]:
    return [message.value for message in messages]


def offsets_of(messages: Iterable[Any]) -> list[bytes]:
    return [message.offset for message in messages]


def due_ms(offset: bytes) -> int:
    return int.from_bytes(offset[:6], "big")


def index(offset: bytes) -> int:
    return int.from_bytes(offset[6:], "big")


def refusal(call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, str]:
    """Code and text of the error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **kwargs)
    error = caught.value
    assert isinstance(error, grpc.Call)
    return error.code(), error.details() or ""


@dataclass(frozen=True)
class Client:
    """Messages and stubs, and the commonest calls by short names."""

    pb: Any
    broker: Any
    internal: Any
    channel: Any
    pid: int
    http_url: str

    def create(self, topic: str, partition_count: int = 1, kind: int = 0) -> list[str]:
        """A new topic, of keys if `kind` is 1; returns its partitions."""
        config = self.pb.TopicConfig(
            name=topic, numPartitions=partition_count, replicationFactor=1, kind=kind
        )
        assert self.broker.CreateTopic(config, timeout=CALL_TIMEOUT_S).success
        return self.partitions(topic)

    def raw(self, method: str, request: Any) -> bytes:
        """A unary call's answer as its bytes; `request` may be bytes too."""
        sent = request if isinstance(request, bytes) else request.SerializeToString()
        return self.channel.unary_unary(f"/sandglass.{method}")(sent, timeout=CALL_TIMEOUT_S)

    def create_with(self, topic: str, **settings: int) -> list[str]:
        """A topic with settings that only our own protocol knows; from its proto as well."""
        request = admin_class("CreateTopicRequest")(name=topic, settings=settings)
        call = self.channel.unary_unary("/sandglass.v1.Admin/CreateTopic")
        call(request.SerializeToString(), timeout=CALL_TIMEOUT_S)
        return self.partitions(topic)

    def partitions(self, topic: str) -> list[str]:
        shown = self.broker.GetTopic(self.pb.GetTopicParams(name=topic), timeout=CALL_TIMEOUT_S)
        return list(shown.partitions)

    def produce(self, topic: str, *messages: Any, partition: str = "") -> list[bytes]:
        """Messages, or values of messages; returns their offsets."""
        request = self.pb.ProduceMessageRequest(topic=topic, partition=partition)
        for message in messages:
            if isinstance(message, bytes):
                request.messages.add(value=message)
            else:
                request.messages.append(message)
        return list(self.broker.Produce(request, timeout=CALL_TIMEOUT_S).offsets)

    def later(self, delay_ms: int, **fields: Any) -> Any:
        """A message with `consumeIn`."""
        message = self.pb.Message(**fields)
        message.consumeIn.FromMilliseconds(delay_ms)
        return message

    def consume(
        self,
        topic: str,
        partition: str,
        group: str = "g",
        name: str = "c",
        channel: str = "",
    ) -> list[Any]:
        """What is ready now."""
        request = self.pb.ConsumeFromGroupRequest(
            topic=topic,
            partition=partition,
            consumerGroupName=group,
            consumerName=name,
            channel=channel,
        )
        return list(self.broker.ConsumeFromGroup(request, timeout=CALL_TIMEOUT_S))

    def consume_until(self, topic: str, partition: str, count: int, **place: Any) -> list[Any]:
        """Polls, as clients do, until there have been `count` messages."""
        deadline = time.monotonic() + CALL_TIMEOUT_S
        got: list[Any] = []
        while len(got) < count:
            assert time.monotonic() < deadline, f"{len(got)} of {count} came"
            got += self.consume(topic, partition, **place)
        return got

    def fetch(
        self, topic: str, partition: str, first: bytes = b"", last: bytes = b"", **fields: Any
    ) -> list[Any]:
        """A range, both ends included."""
        request = self.pb.FetchRangeRequest(
            topic=topic, partition=partition, to=last, **{"from": first}, **fields
        )
        return list(self.broker.FetchRange(request, timeout=CALL_TIMEOUT_S))

    def fetch_from(
        self, topic: str, partition: str, first: bytes = b"", **fields: Any
    ) -> list[Any]:
        request = self.pb.FetchFromRequest(
            topic=topic, partition=partition, **{"from": first}, **fields
        )
        return list(self.broker.FetchFrom(request, timeout=CALL_TIMEOUT_S))

    def ack(
        self, topic: str, partition: str, *offsets: bytes, group: str = "g", channel: str = ""
    ) -> bool:
        return self._mark(
            self.broker.Acknowledge, topic, partition, offsets, group, channel
        ).success

    def nack(
        self, topic: str, partition: str, *offsets: bytes, group: str = "g", channel: str = ""
    ) -> bool:
        return self._mark(
            self.broker.NotAcknowledge, topic, partition, offsets, group, channel
        ).success

    def last_offset(
        self, topic: str, partition: str, kind: int, *, group: str = "g", channel: str = ""
    ) -> bytes:
        request = self.pb.LastOffsetRequest(
            topic=topic, partition=partition, consumerGroup=group, kind=kind, channel=channel
        )
        return self.internal.LastOffset(request, timeout=CALL_TIMEOUT_S).offset

    def mark(
        self,
        topic: str,
        partition: str,
        kind: int,
        *offsets: bytes,
        group: str = "g",
        channel: str = "",
    ) -> bool:
        request = self.pb.MarkRequest(
            topic=topic,
            partition=partition,
            consumerGroup=group,
            offsets=offsets,
            channel=channel,
            state=self.pb.MarkState(kind=kind),
        )
        return self.internal.Mark(request, timeout=CALL_TIMEOUT_S).success

    def mark_state(
        self, topic: str, partition: str, offset: bytes, *, group: str = "g", channel: str = ""
    ) -> tuple[int, int]:
        """(kind, deliveryCount) of a message for a group."""
        request = self.pb.GetMarkRequest(
            topic=topic,
            partition=partition,
            consumerGroup=group,
            offset=offset,
            channel=channel,
        )
        found = self.internal.GetMarkStateMessage(request, timeout=CALL_TIMEOUT_S)
        state = self.pb.MarkState.FromString(found.value)
        return state.kind, state.deliveryCount

    def end_of_log(self, topic: str, partition: str) -> int:
        request = self.pb.EndOfLogRequest(topic=topic, partition=partition)
        return self.internal.EndOfLog(request, timeout=CALL_TIMEOUT_S).index

    def sync(self, topic: str, partition: str, key: bytes = b"") -> list[Any]:
        """In order of production, from above the index that `key` ends with."""
        request = self.pb.FetchFromSyncRequest(
            topic=topic, partition=partition, **{"from": key}
        )
        return list(self.internal.FetchFromSync(request, timeout=CALL_TIMEOUT_S))

    def _mark(
        self,
        call: Any,
        topic: str,
        partition: str,
        offsets: tuple[bytes, ...],
        group: str,
        channel: str,
    ) -> Any:
        request = self.pb.MarkRequest(
            topic=topic,
            partition=partition,
            consumerGroup=group,
            consumerName="c",
            offsets=offsets,
            channel=channel,
        )
        return call(request, timeout=CALL_TIMEOUT_S)


@cache
def admin_class(name: str) -> Any:
    """A message of `sandglass.v1`, made from its proto in a pool of its own."""
    with tempfile.TemporaryDirectory() as folder:
        described = Path(folder) / "set.bin"
        flags = ["--include_imports", f"--descriptor_set_out={described}"]
        assert 0 == protoc.main(["protoc", f"-I{PROTO}", *flags, "sandglass/v1/admin.proto"])
        files = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)
    found = pool.FindMessageTypeByName(f"sandglass.v1.{name}")
    return message_factory.GetMessageClass(found)


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The two modules that protoc makes of the contract."""
    folder = tmp_path_factory.mktemp("generated")
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    code = protoc.main(
        [
            "protoc",
            f"-I{PROTO}",
            f"-I{well_known}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            "sandglass.proto",
        ]
    )
    assert code == 0
    sys.path.insert(0, str(folder))
    try:
        return (
            importlib.import_module("sandglass_pb2"),
            importlib.import_module("sandglass_pb2_grpc"),
        )
    finally:
        sys.path.remove(str(folder))


@contextmanager
def running(
    data: Path, generated: tuple[Any, Any], *, is_killed: bool = False
) -> Iterator[Client]:
    """
    A node on `data`, and a client of it; stopped gracefully, and checked to exit with 0. If
    `is_killed`, it is stopped by SIGKILL instead.
    """
    said = data.with_name(data.name + ".stderr")
    said.touch()
    said_before = said.stat().st_size
    environ = {**os.environ, "HOME": str(data.parent)}
    with (
        said.open("ab") as stderr,
        subprocess.Popen([*COMMAND, "--data", data], stderr=stderr, env=environ) as process,
    ):
        try:
            address, http_address = _addresses_of(process, said, said_before)
            messages, services = generated
            with grpc.insecure_channel(address) as channel:
                yield Client(
                    messages,
                    services.BrokerServiceStub(channel),
                    services.InternalServiceStub(channel),
                    channel,
                    process.pid,
                    f"http://{http_address}",
                )
        finally:
            process.send_signal(signal.SIGKILL if is_killed else signal.SIGTERM)
            try:
                code = process.wait(CALL_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert code == (-signal.SIGKILL if is_killed else 0), said.read_text()


def _addresses_of(
    process: "subprocess.Popen[bytes]", said: Path, said_before: int
) -> tuple[str, str]:
    """Where it serves gRPC and HTTP, as its log says; not what an earlier one said."""
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, said.read_text()
        for line in said.read_bytes()[said_before:].splitlines():
            entry = json.loads(line) if line.startswith(b"{") and line.endswith(b"}") else {}
            if entry.get("message") == "serving":
                return entry["grpc"], entry["http"]
        time.sleep(0.01)
    raise AssertionError(f"the node did not start: {said.read_text()}")


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, generated: tuple[Any, Any]
) -> Iterator[Client]:
    """One node for the module; each test has a topic of its own."""
    with running(tmp_path_factory.mktemp("node") / "data", generated) as started:
        yield started


_numbers = itertools.count(1)


@pytest.fixture
def topic() -> str:
    """A name that no other test has."""
    return f"topic-{next(_numbers)}"


@pytest.fixture(scope="module")
def http(client: Client) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=client.http_url, timeout=CALL_TIMEOUT_S) as opened:
        yield opened
