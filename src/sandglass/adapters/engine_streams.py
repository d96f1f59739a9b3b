"""
Whether the streams of an engine are held by as many servers as they are to be.

A server that is taken out of the group leaves its streams to others at once, by name; that
these have what lies in them comes after that. Until then the loss of one more server may be
that of the majority.
"""

from typing import Any

from sandglass.adapters.nats import Connection


async def unsettled_count(connection: Connection, gone: str, server_count: int) -> int:
    """
    How many streams are not held whole by others, of which there are so many, since a server
    has gone. Servers that are away just now are nobody's to wait for.

    Raises:
        UnavailableError: the engine has no leader.
    """
    count, offset = 0, 0
    while True:
        page = await connection.call("STREAM.LIST", {"offset": offset})
        found = page.get("streams") or []
        count += len(page.get("missing") or ())
        count += sum(not _is_settled(info, gone, server_count) for info in found)
        offset += len(found)
        if not found or offset >= page.get("total", 0):
            return count


def _is_settled(info: dict[str, Any], gone: str, server_count: int) -> bool:
    group = info.get("cluster") or {}
    replicas = group.get("replicas") or []
    names = {group.get("leader"), *(each["name"] for each in replicas)}
    wanted = min(info["config"]["num_replicas"], server_count)
    return (
        bool(group.get("leader"))
        and gone not in names
        and len(names) >= wanted
        and all(each["current"] or each.get("offline") for each in replicas)
    )
