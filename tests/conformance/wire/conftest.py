"""
A node in a process, and a client made from `proto/sandglass.proto` by protoc alone: what any
client of the compatible protocol has. Nothing here or in the tests imports `sandglass`.
"""

import importlib
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc_tools
import pytest
from grpc_tools import protoc

PROTO = Path(__file__).parents[3] / "proto"
CALL_TIMEOUT_S = 30


@dataclass(frozen=True)
class Client:
    """Messages and stubs, and the commonest calls by short names."""

    pb: Any
    broker: Any
    internal: Any

    def create(self, topic: str, partition_count: int = 1, kind: int = 0) -> list[str]:
        """A new topic, of keys if `kind` is 1; returns its partitions."""
        config = self.pb.TopicConfig(
            name=topic, numPartitions=partition_count, replicationFactor=1, kind=kind
        )
        assert self.broker.CreateTopic(config, timeout=CALL_TIMEOUT_S).success
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
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> list[Any]:
        """What is ready now."""
        request = self.pb.ConsumeFromGroupRequest(
            topic=topic,
            partition=partition,
            consumerGroupName=group,
            consumerName=name,
            channel=channel,
        )
        return list(self.broker.ConsumeFromGroup(request, timeout=timeout_s))

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
def running(data: Path, generated: tuple[Any, Any]) -> Iterator[Client]:
    """A node on `data`, and a client of it; stopped gracefully, and checked to exit with 0."""
    command = [sys.executable, str(Path(__file__).parent / "node_process.py"), str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, "the node did not start"
            messages, services = generated
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Client(
                    messages,
                    services.BrokerServiceStub(channel),
                    services.InternalServiceStub(channel),
                )
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert code == 0


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
