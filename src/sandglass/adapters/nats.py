"""
The way to the cluster's engine: one connection, with calls to its API that are asked again
where that is harmless, and publishing with acknowledgements that share one inbox.

The client's defaults strand it on a server that was stopped for minutes: here a server that
doesn't answer two pings, a second apart, is left.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from sandglass.adapters.wide_client import WideClient
from sandglass.errors import (
    ConflictError,
    NotFoundError,
    PreconditionError,
    SandglassError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

CALL_S: Final = 2.0
"""How long one call of the engine's API may take, before it is asked again or given up."""

ASK_S: Final = (0.5, 1.0, CALL_S, CALL_S)
"""How long each try of one that may be asked twice waits: what was asked of a leader that was
about to go is never answered, and its successor may be there a moment later."""

# The engine's numbers of what went wrong, of its file server/errors.json.
NOT_FOUND: Final = frozenset({10059, 10014, 10037, 10044})
"""No such stream, consumer, message, server."""
WRONG_SEQUENCE: Final = frozenset({10071, 10164})
NAME_IN_USE: Final = frozenset({10058})
NO_RESOURCES: Final = frozenset({10005, 10023, 10047, 10074})
"""Too few members, or no room on them."""
NO_LEADER: Final = 10008
NO_LEADER_TEXT: Final = (
    "too few of the engine's servers are there, or they are choosing a leader"
)

Ack = Callable[["Stored | SandglassError"], None]


@dataclass(frozen=True, slots=True)
class Stored:
    """The engine's answer to a publish: where it stands, and whether it stood there before."""

    sequence: int
    is_duplicate: bool


class Listener(Protocol):
    """Who hears a stream through a consumer of the engine."""

    @property
    def is_lost(self) -> bool:
        """The engine on which its consumer lies is gone, or has begun anew."""
        ...

    @property
    def is_near(self) -> bool:
        """Its consumer lies on the engine of this node, or nobody knows where."""
        ...

    def suspect(self) -> None:
        """There may be nobody any more who would tell something."""
        ...


class _NoTlsError(nats.errors.Error):
    def __str__(self) -> str:
        return "it offers no TLS"


def _is_refusal(error: Exception) -> bool:
    """To be asked again is of no use."""
    return isinstance(error, _NoTlsError) or "authorization" in str(error).lower()


class _TlsClient(Client):
    """
    One that shows nothing to a server without TLS. The library's own leaves that to the server:
    whoever stands between could say that there is none, and be shown the password.
    """

    async def _process_info(
        self, info: dict[str, Any], initial_connection: bool = False
    ) -> None:
        if initial_connection and not info.get("tls_required"):
            raise _NoTlsError
        await super()._process_info(info, initial_connection)


@dataclass(slots=True, eq=False)
class Connection:
    """
    A client of the engine. `connect` once, `close` once.

    With a `password` and no `user` it shows that as a token; with neither, nothing. `refused`
    is what to say if the engine doesn't take them. `on_lost` and `on_back` are told when the
    server is away, and when there is one again.
    """

    urls: tuple[str, ...]
    user: str
    password: str = field(repr=False)
    name: str
    tls: ssl.SSLContext | None = None
    refused: str = "it belongs to another cluster"
    on_lost: list[Callable[[], None]] = field(default_factory=list)
    on_back: list[Callable[[], None]] = field(default_factory=list)
    engines: Mapping[str, str] = field(default_factory=dict[str, str])
    """By name what tells one life of an engine from the next; empty: it is gone."""
    tails: set[Listener] = field(default_factory=set[Listener])
    """Those that are open."""
    _client: Client = field(init=False)
    _acks: dict[str, Ack] = field(default_factory=dict)
    _inbox: str = ""
    _number: int = 0

    def __post_init__(self) -> None:
        self._client = WideClient() if self.tls is None else _TlsClient()

    @property
    def client(self) -> Client:
        """The client itself."""
        return self._client

    @property
    def is_up(self) -> bool:
        """Is there a server just now?"""
        return self._client.is_connected

    async def connect(self) -> None:
        """
        Connects; from here on it comes back by itself.

        Raises:
            UnavailableError: nobody answers, or nobody listens at any of the urls.
            PreconditionError: the engine knows another secret.
        """
        options: Any = {
            "servers": list(self.urls),
            "name": self.name,
            **self._credentials(),
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.2,
            "connect_timeout": CALL_S,
            "ping_interval": 1,
            "max_outstanding_pings": 2,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_lost,
            "reconnected_cb": self._on_back,
        }
        faults: list[BaseException] = []
        is_refused = asyncio.Event()

        async def on_error(error: Exception) -> None:
            faults.append(error)
            away_count = sum(isinstance(each, ConnectionRefusedError) for each in faults)
            if _is_refusal(error) or away_count >= len(self.urls):
                is_refused.set()

        connecting = asyncio.create_task(
            self._client.connect(**{**options, "error_cb": on_error})
        )
        refused = asyncio.create_task(is_refused.wait())
        try:
            await asyncio.wait(
                {connecting, refused},
                timeout=CALL_S * 2,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            refused.cancel()
            is_connected = connecting.done() and connecting.exception() is None
            if not is_connected:
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)
                await self._client.close()
        if not is_connected:
            if connecting.done() and not connecting.cancelled():
                faults.extend(filter(None, [connecting.exception()]))
            raise self._not_connected(faults)
        self._client._error_cb = self._on_error
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._on_ack)

    def _not_connected(self, faults: list[BaseException]) -> SandglassError:
        """What went wrong, from all that was tried."""
        for fault in faults:
            if "authorization" in str(fault).lower():
                return PreconditionError(
                    f"the engine at {self.urls[0]} refuses our secret: {self.refused}"
                )
        told = (each for each in faults if isinstance(each, ssl.SSLError | _NoTlsError))
        is_away = any(isinstance(each, ConnectionRefusedError) for each in faults)
        why = next((f": {each}" for each in told), ": connection refused" if is_away else "")
        return UnavailableError(f"the engine at {self.urls[0]} doesn't answer{why}")

    @property
    def server(self) -> dict[str, Any]:
        """What the server that it is connected to says of itself."""
        return dict(self._client._server_info)

    def _credentials(self) -> dict[str, Any]:
        shown: dict[str, Any] = {} if self.tls is None else {"tls": self.tls}
        if self.user:
            return shown | {"user": self.user, "password": self.password}
        return shown | {"token": self.password} if self.password else shown

    async def close(self) -> None:
        """Closes; what was published and not answered stays unknown."""
        await self._client.close()
        self._fail_all("the connection to the engine was closed")

    # --- the API ------------------------------------------------------------------------------

    async def call(
        self, subject: str, request: object = None, *, tries_s: Sequence[float] = ASK_S
    ) -> dict[str, Any]:
        """
        A call of the engine's API, JSON both ways; asked again when nobody answers, so only for
        what may be asked twice, unless `tries_s` has but one.

        Raises:
            NotFoundError, ConflictError, PreconditionError: what the engine said.
            UnavailableError: nobody answered, or there is no quorum.
        """
        data = b"" if request is None else json.dumps(request).encode()
        for try_s in tries_s:
            try:
                answer = await self._client.request(f"$JS.API.{subject}", data, timeout=try_s)
                return _checked(json.loads(answer.data))
            except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
                await asyncio.sleep(0.1)
            except nats.errors.Error as error:
                raise UnavailableError(f"the engine can't be asked: {error}") from error
        raise UnavailableError(NO_LEADER_TEXT)

    # --- publishing ---------------------------------------------------------------------------

    async def publish(
        self, subject: str, data: bytes, headers: dict[str, str], on_ack: Ack
    ) -> str:
        """
        Sends a message; `on_ack` is told what became of it, if an answer comes. Returns a token
        for `forget`.
        """
        self._number += 1
        token = str(self._number)
        self._acks[token] = on_ack
        try:
            await self._client.publish(
                subject, data, reply=f"{self._inbox}.{token}", headers=headers
            )
        except nats.errors.Error as error:
            del self._acks[token]
            raise UnavailableError(
                f"the engine can't be reached: {error}", is_result_unknown=True
            ) from error
        return token

    def forget(self, token: str) -> None:
        """Nobody waits for this answer any more."""
        self._acks.pop(token, None)

    async def store(self, subject: str, data: bytes, headers: dict[str, str]) -> Stored:
        """
        Publishes one message and waits.

        Raises:
            ConflictError: the stream has moved on.
            UnavailableError: no answer; the outcome is unknown.
        """
        future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()

        def on_ack(answer: Stored | SandglassError) -> None:
            if future.done():
                return
            if isinstance(answer, Stored):
                future.set_result(answer)
            else:
                future.set_exception(answer)

        token = await self.publish(subject, data, headers, on_ack)
        try:
            async with asyncio.timeout(CALL_S):
                return await future
        except TimeoutError:
            raise UnavailableError(
                f"no answer from the engine within {CALL_S:g} s", is_result_unknown=True
            ) from None
        finally:
            self.forget(token)

    async def _on_ack(self, msg: Msg) -> None:
        on_ack = self._acks.pop(msg.subject.rpartition(".")[2], None)
        if on_ack is None:
            return
        if msg.headers and msg.headers.get("Status") == "503":
            on_ack(
                UnavailableError("the engine has no leader for this", is_result_unknown=True)
            )
            return
        try:
            answer = _checked(json.loads(msg.data))
            on_ack(Stored(answer["seq"], bool(answer.get("duplicate"))))
        except SandglassError as error:
            on_ack(error)
        except (ValueError, LookupError):
            on_ack(UnavailableError("the engine's answer is none", is_result_unknown=True))

    def _fail_all(self, why: str) -> None:
        acks, self._acks = self._acks, {}
        for on_ack in acks.values():
            on_ack(UnavailableError(why, is_result_unknown=True))

    # --- what is heard of engines -------------------------------------------------------------

    def heard(self, engines: Mapping[str, str]) -> None:
        """Which engines there are: what tails read by goes with the engine that it lies on."""
        self.engines = engines
        for tail in self.tails:
            if tail.is_lost:
                tail.suspect()

    # --- what the client tells ----------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        logger.debug("engine: %r", error)

    async def _on_lost(self) -> None:
        # What was sent and not answered may be stored or not; answers won't come.
        self._fail_all("the connection to the engine broke")
        for told in self.on_lost:
            told()

    async def _on_back(self) -> None:
        for tail in self.tails:
            if tail.is_near:
                tail.suspect()
        for told in self.on_back:
            told()


def led(told: dict[str, Any]) -> dict[str, Any]:
    """
    What was told of a stream, if its leader told it. An engine that knows of no leader answers
    by its own copy, which may be old: a stream between two leaders would look shorter.

    Raises:
        UnavailableError: there is no leader.
    """
    if not told.get("cluster", {"leader": "a server alone"}).get("leader"):
        raise UnavailableError(NO_LEADER_TEXT)
    return told


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    error = answer.get("error")
    if not error:
        return answer
    number, said = error.get("err_code", 0), error.get("description", "")
    if number in NOT_FOUND:
        raise NotFoundError(f"the engine: {said}")
    if number in WRONG_SEQUENCE or number in NAME_IN_USE:
        raise ConflictError(f"the engine: {said}")
    if number in NO_RESOURCES:
        raise PreconditionError(f"the engine: {said}")
    what = NO_LEADER_TEXT if number == NO_LEADER else f"the engine: {said} ({number})"
    raise UnavailableError(what, is_result_unknown=True)
