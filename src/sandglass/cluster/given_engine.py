"""
An engine that an operator runs: a NATS cluster of their own, with an account of its own for
each cluster of Sandglass.

What it must be shows when it is connected to, and is looked at each time a node joins: version,
JetStream, payloads as large as our entries, more than one server. Whether it syncs what it
acknowledges does not show to an account, so that it counts as unknown.
"""

import logging
import ssl
from typing import Any, Final

from sandglass.adapters.engine import VERSION_MIN, version_of
from sandglass.adapters.nats import Connection
from sandglass.cluster.engines import GivenConfig
from sandglass.core import limits
from sandglass.errors import PreconditionError

logger = logging.getLogger(__name__)

HEADERS_BYTES_MAX: Final = 64 * 1024
"""Of a message, beside the entry in it."""

PAYLOAD_BYTES_MIN: Final = limits.ENTRY_BYTES_MAX + HEADERS_BYTES_MAX


class GivenEngine:
    """`ClusterEngine` of an operator's own; `name` is the node's."""

    durability = "unknown"
    is_behind = False
    goes_with_nodes = False

    def __init__(self, name: str, config: GivenConfig) -> None:
        self.name = name
        self.config = config

    async def open(self) -> None:
        """See `ClusterEngine.open`."""
        logger.warning(
            "the engine at %s is an operator's own: it is not known whether it syncs what it"
            " acknowledges. Only with sync_interval: always in its jetstream block does an"
            " answered message survive a power cut of all servers",
            ", ".join(self.config.urls),
        )

    async def start(self) -> bool:
        """See `ClusterEngine.start`: it is there, or not."""
        return True

    async def stop(self) -> None:
        """See `ClusterEngine.stop`: it goes on."""

    async def connect(self) -> Connection:
        """See `ClusterEngine.connect`."""
        config = self.config
        connection = Connection(
            config.urls,
            config.user,
            config.password,
            self.name,
            tls=self._tls(),
            refused="see engine_credentials_file",
        )
        await connection.connect()
        try:
            check_server(connection.server, config.urls[0])
        except PreconditionError:
            await connection.close()
            raise
        return connection

    async def remove(self, node: str) -> None:
        """See `ClusterEngine.remove`: its servers are no nodes of ours."""

    async def unsettled_count(self, gone: str, left_count: int) -> int:
        """See `ClusterEngine.unsettled_count`: they hold what they held."""
        return 0

    async def why_apart(self) -> str:
        """See `ClusterEngine.why_apart`: its servers are an operator's to look after."""
        return ""

    def _tls(self) -> ssl.SSLContext | None:
        if not any(url.startswith("tls://") for url in self.config.urls):
            return None
        return ssl.create_default_context(cafile=self.config.ca)


def check_server(server: dict[str, Any], url: str) -> None:
    """
    Whether an engine will do, by what its server says of itself.

    Raises:
        PreconditionError: it won't; the error says what to change.
    """
    version = version_of(f"v{server.get('version', '')}")
    shown, wanted = (".".join(map(str, each)) for each in (version, VERSION_MIN))
    payload_bytes = server.get("max_payload", 0)
    if version < VERSION_MIN:
        fault = f"is nats-server {shown}; {wanted} or newer is needed"
    elif not server.get("jetstream"):
        fault = "keeps no streams: switch JetStream on, for the account as well"
    elif not server.get("cluster"):
        fault = "is a server that stands alone: replicas need a cluster of three"
    elif payload_bytes < PAYLOAD_BYTES_MIN:
        fault = (
            f"takes {payload_bytes} bytes a message, and an entry may have {PAYLOAD_BYTES_MIN}:"
            " set max_payload to 8MB on all its servers"
        )
    else:
        return
    raise PreconditionError(f"the engine at {url} {fault}", field="engine_url")
