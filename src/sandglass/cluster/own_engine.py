"""
The engine that a node runs for itself, among those of its peers.

It is started once it is known which group it is of: at once where its streams say so, or where
nobody is there and the node founds; otherwise when an engine of a peer has shown itself. How it
is kept apart from engines of others: `adapters.engine_store`.
"""

import asyncio
import logging
from dataclasses import replace
from typing import Final

from sandglass.adapters.engine import (
    ACCOUNT_USER,
    SYSTEM_USER,
    Engine,
    EngineConfig,
    find_binary,
)
from sandglass.adapters.engine_peers import LOOK_S, PeerSeen, group_of, look_at, why_apart
from sandglass.adapters.engine_store import GROUP_PREFIX, Owner, load_owner, save_owner
from sandglass.adapters.engine_streams import unsettled_count
from sandglass.adapters.nats import Connection
from sandglass.errors import NotFoundError, SandglassError
from sandglass.ports import Entropy
from sandglass.security.tls import peer_context

logger = logging.getLogger(__name__)

GROUP_BYTES: Final = 8
FIRST_LOOK_S: Final = 5.0
"""A founder that draws a group although there is one stays alone: it looks well."""


class OwnEngine:
    """`ClusterEngine` in a process of this node's. `node_id` is that of its data, in hex."""

    durability = "always"
    goes_with_nodes = True

    def __init__(
        self, config: EngineConfig, *, node_id: str, is_founder: bool, entropy: Entropy
    ) -> None:
        self.name = config.name
        self.engine = Engine(config)
        self._node_id = node_id
        self._is_founder = is_founder
        self._entropy = entropy
        self._is_started = False

    @property
    def is_behind(self) -> bool:
        """See `ClusterEngine.is_behind`."""
        return self.engine.is_behind

    @property
    def config(self) -> EngineConfig:
        """What the engine is told."""
        return self.engine.config

    async def open(self) -> None:
        """See `ClusterEngine.open`."""
        owner = self._owner()
        if owner is not None:
            await self._start(owner)
            return
        find_binary(self.config.binary)
        self.engine.check_ports()

    async def start(self) -> bool:
        """See `ClusterEngine.start`."""
        if self._is_started:
            return True
        owner = self._owner()
        if owner is None:
            group = group_of(await self._look(FIRST_LOOK_S))
            if not group and not self._is_founder:
                return False
            group = group or GROUP_PREFIX + self._entropy.token_bytes(GROUP_BYTES).hex()
            owner = Owner(self._node_id, self.name, group)
            await asyncio.to_thread(save_owner, self.config.directory, owner)
        await self._start(owner)
        return True

    async def _look(self, look_s: float) -> list[PeerSeen]:
        files = self.config.tls
        tls = None if files is None else peer_context(files)
        return await look_at(self.config.peers, tls=tls, look_s=look_s)

    def _owner(self) -> Owner | None:
        return load_owner(self.config.directory, node=self._node_id, name=self.name)

    async def _start(self, owner: Owner) -> None:
        self.engine.config = replace(self.config, group=owner.group)
        await self.engine.start()
        self._is_started = True

    async def stop(self) -> None:
        """See `ClusterEngine.stop`."""
        await self.engine.stop()

    async def connect(self) -> Connection:
        """See `ClusterEngine.connect`."""
        return await self._connected(ACCOUNT_USER)

    async def remove(self, node: str) -> None:
        """See `ClusterEngine.remove`."""
        connection = await self._connected(SYSTEM_USER)
        try:
            await connection.call("SERVER.REMOVE", {"peer": node})
        except NotFoundError:
            logger.debug("engine %s is in no group", node)
        finally:
            await connection.close()

    async def unsettled_count(self, gone: str, left_count: int) -> int:
        """See `ClusterEngine.unsettled_count`."""
        connection = await self.connect()
        try:
            return await unsettled_count(connection, gone, left_count)
        finally:
            await connection.close()

    async def why_apart(self) -> str:
        """See `ClusterEngine.why_apart`."""
        config = self.config
        try:
            seen = await self._look(LOOK_S)
        except SandglassError as error:
            return error.message
        if not self._is_started:
            return why_apart(seen, own_id="", name=self.name, group=group_of(seen), met=())
        own_id, met = await asyncio.to_thread(self.engine.met)
        return why_apart(seen, own_id=own_id, name=self.name, group=config.group, met=met)

    async def _connected(self, user: str) -> Connection:
        config = self.config
        connection = Connection((config.url,), user, config.password(user), self.name)
        await connection.connect()
        return connection
