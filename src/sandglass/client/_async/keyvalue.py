"""Calls of the `KeyValue` service. What reads is repeated where nobody answered."""

from collections.abc import AsyncIterator, Mapping

from sandglass.client import keyvalue
from sandglass.client._async.unary import Unary
from sandglass.client.keyvalue import Entry, Place, Scan
from sandglass.client.message import Receipt
from sandglass.wire.v1 import admin_pb2, keyvalue_pb2

SERVICE = "KeyValue"


class KeyValue:
    """See `AsyncClient`, which says what the calls do."""

    def __init__(self, unary: Unary) -> None:
        self._unary = unary

    async def get(
        self, place: Place, key: bytes | str, clustering_key: bytes | str
    ) -> Entry | None:
        """The entry under a key; None if there is none."""
        request = keyvalue.get_request(place, keyvalue.key_of(key, clustering_key))
        parse = keyvalue_pb2.GetReply.FromString
        reply = await self._unary.call("Get", request, parse, service=SERVICE, is_read=True)
        return keyvalue.entry_of(reply.entries[0])

    async def has(self, place: Place, key: bytes | str, clustering_key: bytes | str) -> bool:
        """Is there an entry under a key?"""
        request = keyvalue.has_request(place, keyvalue.key_of(key, clustering_key))
        parse = keyvalue_pb2.HasReply.FromString
        reply = await self._unary.call("Has", request, parse, service=SERVICE, is_read=True)
        return reply.exists[0]

    async def put(
        self,
        place: Place,
        key: bytes | str,
        clustering_key: bytes | str,
        value: bytes | str,
        *,
        headers: Mapping[str, bytes | str] | None,
        id: str,  # noqa: A002 - the field's name
    ) -> Receipt:
        """Puts a message under its key."""
        wanted = keyvalue.key_of(key, clustering_key)
        request = keyvalue.put_request(place, wanted, value, headers=headers, id=id)
        parse = keyvalue_pb2.PutReply.FromString
        reply = await self._unary.call("Put", request, parse, service=SERVICE)
        return keyvalue.receipt_of(place.topic, reply)

    async def delete(self, place: Place, key: bytes | str, clustering_key: bytes | str) -> bool:
        """Deletes the entry under a key; was there one?"""
        request = keyvalue.delete_request(place, keyvalue.key_of(key, clustering_key))
        parse = keyvalue_pb2.DeleteReply.FromString
        reply = await self._unary.call("Delete", request, parse, service=SERVICE)
        return reply.existed[0]

    async def entries(self, scan: Scan) -> AsyncIterator[Entry]:
        """All that a scan finds."""
        while not scan.is_over:
            for entry in await self.page(scan):
                yield entry

    async def page(self, scan: Scan) -> list[Entry]:
        """The next page of a scan; a page may be empty where more follow."""
        if scan.left is None:
            wanted = admin_pb2.ShowTopicRequest(name=scan.request.topic, page_size=1)
            parse = admin_pb2.ShowTopicReply.FromString
            shown = await self._unary.call("ShowTopic", wanted, parse, is_read=True)
            scan.begin([*shown.topic.partitions])
        parse_page = keyvalue_pb2.ScanReply.FromString
        return scan.taken(
            await self._unary.call(
                "Scan", scan.request, parse_page, service=SERVICE, is_read=True
            )
        )
