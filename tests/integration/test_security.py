"""TLS and tokens between real processes: who gets in, who doesn't, and who is thrown out."""

import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sandglass import AsyncClient, TlsOptions
from sandglass.errors import SandglassError, UnauthenticatedError, UnavailableError
from sandglass.security.tokens import add_token, remove_token, renew_token
from sandglass.testing.process import NodeEndedError, NodeProcess
from sandglass.wire.v1 import broker_pb2, broker_pb2_grpc
from tests.certificates import Authority, Pair

BIN = Path(sys.executable).parent
WAIT_S = 60.0
SHORT = timedelta(seconds=2)
"""For calls that come to nothing: how long they try."""

MAILER, READER = "sg_mailer-secret", "sg_reader-secret"


@dataclass(frozen=True)
class House:
    """What a node is given, in files."""

    folder: Path
    authority: Authority
    pair: Pair
    tokens: Path

    @property
    def tls(self) -> list[str]:
        return [f"--tls_cert_file={self.pair.certificate}", f"--tls_key_file={self.pair.key}"]

    @property
    def mutual(self) -> list[str]:
        return [*self.tls, f"--tls_client_ca_file={self.authority.file}"]

    @property
    def asking(self) -> list[str]:
        return [f"--token_file={self.tokens}"]

    def node(self, *flags: str) -> NodeProcess:
        return NodeProcess(self.folder / "data", flags=flags)


@pytest.fixture
def house(tmp_path: Path) -> House:
    authority = Authority(tmp_path)
    tokens = tmp_path / "tokens"
    add_token(tokens, "mailer", MAILER)
    add_token(tokens, "reader", READER)
    return House(tmp_path, authority, authority.issue(), tokens)


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.02)
    assert condition(), what


async def refusal(client: AsyncClient) -> SandglassError:
    """Of a call that is made and of a session that is opened: both say the same."""
    async with client:
        called, produced = await asyncio.gather(
            client.list_topics(), client.produce("emails", b"x"), return_exceptions=True
        )
    assert isinstance(called, SandglassError), called
    assert type(called) is type(produced)
    return called


async def works(client: AsyncClient, topic: str) -> None:
    async with client:
        await client.create_topic(topic)
        await client.produce(topic, b"x")
        async for message in client.consume(topic, group="g"):
            await message.ack(wait=True)
            break


# --- TLS --------------------------------------------------------------------------------------


async def test_a_client_that_trusts_the_node_talks_to_it_encrypted(house: House) -> None:
    async with house.node(*house.tls) as node:
        port = node.grpc_port

        await works(AsyncClient(node.address, tls=house.authority.file), "a")
        await works(AsyncClient(f"localhost:{port}", tls=house.authority.file), "b")
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("SSL_CERT_FILE", str(house.authority.file))
            await works(AsyncClient(node.address, tls=True), "c")
        plain = await refusal(AsyncClient(node.address, timeout=SHORT))

    assert isinstance(plain, UnavailableError)
    assert "socket closed; does it want TLS?" in plain.message


async def test_a_client_that_trusts_another_authority_does_not(house: House) -> None:
    stranger = Authority(house.folder, "stranger")
    async with house.node(*house.tls) as node:
        for tls in (stranger.file, True):
            error = await refusal(AsyncClient(node.address, tls=tls, timeout=SHORT))
            assert isinstance(error, UnavailableError)
            assert "the node's certificate is not trusted" in error.message


async def test_the_certificate_s_name_counts_and_can_be_told(house: House) -> None:
    pair = house.authority.issue("node1", "node1.example.com")
    named = replace(house, pair=pair)
    trusting = TlsOptions(ca_file=house.authority.file)
    async with named.node(*named.tls) as node:
        wrong = await refusal(AsyncClient(node.address, tls=trusting, timeout=SHORT))
        right = replace(trusting, server_name="node1.example.com")
        await works(AsyncClient(node.address, tls=right), "a")

    assert "the node's certificate is for another name" in wrong.message


async def test_tls_to_a_node_without_it_says_so(house: House) -> None:
    async with house.node() as node:
        error = await refusal(
            AsyncClient(node.address, tls=house.authority.file, timeout=SHORT)
        )

    assert "the node doesn't speak TLS" in error.message


async def test_a_node_asks_for_a_certificate_of_its_authorities(house: House) -> None:
    ours = house.authority.issue("client")
    theirs = Authority(house.folder, "theirs").issue("client")
    past = house.authority.issue("past", ends=timedelta(hours=-1))
    trusting = TlsOptions(ca_file=house.authority.file)

    def showing(pair: Pair) -> TlsOptions:
        return replace(trusting, certificate_file=pair.certificate, key_file=pair.key)

    async with house.node(*house.mutual) as node:
        await works(AsyncClient(node.address, tls=showing(ours)), "a")
        none = await refusal(AsyncClient(node.address, tls=trusting, timeout=SHORT))
        for pair in (theirs, past):
            await refusal(AsyncClient(node.address, tls=showing(pair), timeout=SHORT))

    assert "socket closed; does it want a certificate?" in none.message


async def test_a_new_certificate_serves_new_connections(house: House) -> None:
    async with house.node(*house.tls) as node:
        other = Authority(house.folder, "other")
        pair = other.issue("server")
        os.replace(pair.key, house.pair.key)
        os.replace(pair.certificate, house.pair.certificate)
        await until(lambda: "the certificate changed" in node.stderr, "the certificate")

        await works(AsyncClient(node.address, tls=other.file), "a")


# --- tokens -----------------------------------------------------------------------------------


async def test_only_a_known_token_is_let_in(house: House) -> None:
    async with house.node(*house.asking) as node:
        await works(AsyncClient(node.address, token=MAILER), "a")
        for token, said in (
            (None, "wants a token"),
            ("sg_guess", "not one that this node knows"),
        ):
            error = await refusal(AsyncClient(node.address, token=token))
            assert isinstance(error, UnauthenticatedError)
            assert said in error.message
        async with grpc.aio.insecure_channel(node.address) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest()
            )

    assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_revoked_token_ends_its_sessions_in_time_and_no_others(house: House) -> None:
    """Produce is answered, then a token is taken away; its consumer ends, the other goes on."""
    async with house.node(*house.asking) as node:
        mailer = AsyncClient(node.address, token=MAILER)
        reader = AsyncClient(node.address, token=READER)
        async with mailer:
            await mailer.create_topic("emails")
            waiting = asyncio.create_task(anext(aiter(mailer.consume("emails", group="m"))))
            going_on = asyncio.create_task(anext(aiter(reader.consume("emails", group="r"))))
            await until(lambda: len(groups(house, node)) == 2, "both consumers")

            subprocess.run(
                [BIN / "sandglass", "token", "remove", "mailer", *house.asking],
                check=True,
                capture_output=True,
                timeout=WAIT_S,
            )
            # How long that may take is asserted in core/limits.py: no machine is never busy.
            with pytest.raises(UnauthenticatedError, match="was revoked"):
                await asyncio.wait_for(waiting, WAIT_S)
            with pytest.raises(UnauthenticatedError):
                await mailer.produce("emails", b"x")

        await reader.produce("emails", b"y")
        message = await asyncio.wait_for(going_on, WAIT_S)
        assert message.value == b"y"
        await message.ack(wait=True)
        await reader.close()


async def test_a_token_renewed_in_time_goes_on_with_what_is_held(house: House) -> None:
    """The client's file has the new token before the node's has lost the old one."""
    (mine := house.folder / "mine").write_text(MAILER)
    async with (
        house.node(*house.asking, "--session_grace=60s") as node,
        AsyncClient(node.address, token=mine) as client,
    ):
        await client.create_topic("emails")
        await client.produce_many("emails", [b"a", b"b"])
        consumer = aiter(client.consume("emails", group="g"))
        held = await asyncio.wait_for(anext(consumer), WAIT_S)

        renew_token(house.tokens, "mailer", "sg_new-secret")
        mine.write_text("sg_new-secret")
        remove_token(house.tokens, "mailer", is_older_alone=True)
        await until(lambda: "revoked ['mailer']" in node.stderr, "the revocation")

        await asyncio.wait_for(held.ack(wait=True), WAIT_S)
        other = await asyncio.wait_for(anext(consumer), WAIT_S)
        assert (held.attempt, other.attempt, other.value) == (1, 1, b"b")
        await other.ack(wait=True)


@asynccontextmanager
async def greeted(node: NodeProcess, token: str, session_id: str) -> AsyncIterator[str]:
    """A session, opened or resumed by hand; its id."""
    async with grpc.aio.insecure_channel(node.address) as channel:
        stub: Any = broker_pb2_grpc.BrokerStub(channel)
        call = stub.Session(metadata=(("authorization", f"Bearer {token}"),))
        hello = broker_pb2.Hello(session_id=session_id, client_name="raw")
        await call.write(broker_pb2.ClientFrame(hello=hello))
        frame = None
        with contextlib.suppress(grpc.aio.AioRpcError):
            frame = await asyncio.wait_for(call.read(), WAIT_S)
        if not isinstance(frame, broker_pb2.ServerFrame):
            raise EndedError(await call.code(), await call.details())
        yield frame.welcome.session_id
        call.cancel()


class EndedError(Exception):
    """The node has ended a session: its code and its words."""


async def test_a_session_is_resumed_by_the_name_that_opened_it_and_no_other(
    house: House,
) -> None:
    renew_token(house.tokens, "mailer", "sg_mailer-again")
    async with house.node(*house.asking) as node, greeted(node, MAILER, "") as mine:
        with pytest.raises(EndedError) as caught:
            async with greeted(node, READER, mine):
                pass
        async with greeted(node, "sg_mailer-again", mine) as again:
            pass

    assert caught.value.args == (
        grpc.StatusCode.PERMISSION_DENIED,
        f"session {mine} was opened with another's token: 'reader' can't go on with it",
    )
    assert again == mine


async def test_a_client_with_another_name_than_before_begins_anew(house: House) -> None:
    """What it held comes again, and consuming goes on."""
    (mine := house.folder / "mine").write_text(MAILER)
    async with (
        house.node(*house.asking) as node,
        AsyncClient(node.address, token=mine) as client,
    ):
        await client.create_topic("emails")
        await client.produce("emails", b"a")
        consumer = aiter(client.consume("emails", group="g"))
        held = await asyncio.wait_for(anext(consumer), WAIT_S)

        mine.write_text(READER)
        remove_token(house.tokens, "mailer")
        again = await asyncio.wait_for(anext(consumer), WAIT_S)
        await again.ack(wait=True)

    assert (held.value, again.value, again.attempt) == (b"a", b"a", 2)


async def test_a_new_token_is_let_in_without_a_restart(house: House) -> None:
    async with house.node(*house.asking) as node:
        add_token(house.tokens, "late", "sg_late-secret")
        await until(lambda: "added ['late']" in node.stderr, "the token")

        await works(AsyncClient(node.address, token="sg_late-secret"), "a")


async def test_no_token_is_in_the_log(house: House) -> None:
    async with house.node(*house.tls, *house.asking, "--verbose") as node:
        tls = house.authority.file
        await works(AsyncClient(node.address, tls=tls, token=MAILER), "a")
        await refusal(AsyncClient(node.address, tls=tls, token="sg_wrong-secret"))
        remove_token(house.tokens, "mailer")
        await until(lambda: "revoked ['mailer']" in node.stderr, "the revocation")
        await until(lambda: "without a valid token were refused" in node.stderr, "the report")

    assert "secret" not in node.stderr
    assert all(line.startswith("{") for line in node.stderr.splitlines()), node.stderr


# --- HTTP -------------------------------------------------------------------------------------


async def get(url: str, authority: Authority, token: str = "") -> int:
    """The status of an answer."""
    context = ssl.create_default_context(cafile=str(authority.file))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)

    def fetch() -> int:
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S, context=context) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    return await asyncio.to_thread(fetch)


async def test_http_has_the_same_certificate_and_tokens(house: House) -> None:
    async with house.node(*house.tls, *house.asking) as node:
        address = f"https://localhost:{node.http_port}"
        statuses = [
            await get(f"{address}{path}", house.authority, token)
            for path in ("/topics", "/metrics", "/none", "/livez")
            for token in ("", "sg_guess", MAILER)
        ]
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await get(f"{address}/livez", Authority(house.folder, "stranger"))
        remove_token(house.tokens, "mailer")
        await until(lambda: "revoked ['mailer']" in node.stderr, "the revocation")
        revoked = await get(f"{address}/topics", house.authority, MAILER)

        other = Authority(house.folder, "other")
        pair = other.issue("server")
        os.replace(pair.key, house.pair.key)
        os.replace(pair.certificate, house.pair.certificate)
        await until(lambda: "the certificate changed" in node.stderr, "the certificate")
        renewed = await get(f"{address}/livez", other)

    assert statuses == [401, 401, 200, 401, 401, 200, 401, 401, 404, 200, 200, 200]
    assert (revoked, renewed) == (401, 200)


async def test_http_asks_for_a_certificate_too(house: House) -> None:
    ours = house.authority.issue("client")
    async with house.node(*house.mutual) as node:
        context = ssl.create_default_context(cafile=str(house.authority.file))

        async def answered() -> bytes:
            """The first line; with TLS 1.3 a client hears of its refusal when it reads."""
            reader, writer = await asyncio.open_connection(
                "localhost", node.http_port, ssl=context
            )
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            try:
                return (await reader.read(64)).split(b"\r")[0]
            except OSError:
                return b""
            finally:
                writer.close()

        without = await answered()
        context.load_cert_chain(ours.certificate, ours.key)
        shown = await answered()

    assert (without, shown) == (b"", b"HTTP/1.1 200 OK")


# --- what starts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "starts"),
    [
        ("", False),
        ("tls", False),
        ("mutual", False),
        ("asking", False),
        ("tls asking", True),
        ("insecure", True),
        ("tls insecure", True),
        ("asking insecure", True),
    ],
)
async def test_beyond_loopback_a_node_starts_with_tls_and_tokens_or_when_told_to(
    house: House, flags: str, starts: bool
) -> None:
    given = ["--bind_addr=0.0.0.0"]
    for each in flags.split():
        given += ["--insecure"] if each == "insecure" else getattr(house, each)

    if starts:
        async with house.node(*given) as node:
            assert ("--insecure was given" in node.stderr) == ("insecure" in flags)
        return
    node = house.node(*given)
    with pytest.raises(NodeEndedError) as ended:
        await node.start()
    assert ended.value.code == 2
    assert ended.value.text.count("\n") == 1
    assert "bind_addr 0.0.0.0 can be reached from other machines" in ended.value.text


async def test_a_token_file_that_others_can_read_starts_nothing(house: House) -> None:
    house.tokens.chmod(0o644)

    with pytest.raises(NodeEndedError) as ended:
        await house.node(*house.asking).start()

    assert ended.value.code == 2
    assert f"token file {house.tokens} has mode 0644" in ended.value.text
    assert ended.value.text.count("\n") == 1


# --- sandctl ----------------------------------------------------------------------------------


def ctl(
    house: House, node: NodeProcess, *arguments: str, more_env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    env = {"HOME": str(house.folder), "PATH": os.environ["PATH"], **(more_env or {})}
    return subprocess.run(
        [BIN / "sandctl", "--addrs", node.address, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
        env=env,
    )


def groups(house: House, node: NodeProcess) -> list[str]:
    (path := house.folder / "reader").write_text(READER)
    path.chmod(0o600)
    done = ctl(house, node, "groups", "list", "emails", "--token-file", str(path))
    return done.stdout.splitlines()[1:]


async def test_sandctl_shows_certificate_and_token(house: House) -> None:
    (path := house.folder / "mine").write_text(MAILER + "\n")
    path.chmod(0o600)
    ours = house.authority.issue("client")
    tls = ["--ca-file", str(house.authority.file)]
    pair = ["--cert-file", str(ours.certificate), "--key-file", str(ours.key)]
    token = ["--token-file", str(path)]
    quick = ["--timeout", "1s"]
    async with house.node(*house.mutual, *house.asking) as node:
        good = ctl(house, node, "topics", "create", "a", *tls, *pair, *token)
        by_env = ctl(
            house,
            node,
            *("topics", "list"),
            more_env={
                "SANDCTL_CA_FILE": str(house.authority.file),
                "SANDCTL_CERT_FILE": str(ours.certificate),
                "SANDCTL_KEY_FILE": str(ours.key),
                "SANDCTL_TOKEN": MAILER,
            },
        )
        unknown = ctl(house, node, "topics", "list", *tls, *pair)
        unshown = ctl(house, node, "topics", "list", *tls, *token, *quick)
        plain = ctl(house, node, "topics", "list", *token, *quick)
        half = ctl(house, node, "topics", "list", *tls, *pair[:2])
        both = ctl(house, node, "topics", "list", *token, more_env={"SANDCTL_TOKEN": "sg_x"})
        none = ctl(house, node, "topics", "list", "--token-file", "/nowhere/token")
        path.chmod(0o640)
        wide = ctl(house, node, "topics", "list", *tls, *pair, *token)

    assert (good.returncode, good.stderr) == (0, "")
    assert (by_env.returncode, by_env.stderr) == (0, "")
    for done, code, said in (
        (unknown, 1, "this node wants a token"),
        (unshown, 1, "does it want a certificate?"),
        (plain, 1, "does it want TLS?"),
        (half, 2, "a certificate and its key go together"),
        (both, 2, "token and token_file are both set"),
        (none, 2, "token file /nowhere/token can't be read"),
        (wide, 2, f"token file {path} has mode 0640"),
    ):
        first, *hint = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (code, "")
        assert said in first
        assert hint == (["Try 'sandctl topics list --help'."] if code == 2 else [])
        assert "secret" not in done.stderr


def test_sandctl_sends_no_token_in_plain_text_to_other_machines(tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "sandctl", "--addrs", "192.0.2.1:7170", "topics", "list"],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "SANDCTL_TOKEN": MAILER},
    )

    assert done.returncode == 2
    assert "the token would go to 192.0.2.1 unencrypted: give --tls" in done.stderr
    assert "secret" not in done.stderr
