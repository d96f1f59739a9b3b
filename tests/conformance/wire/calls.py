"""Calls over HTTP and what they answer, for the transcripts of that surface."""

import json
from base64 import b64decode, b64encode
from typing import Any

import httpx


def create(http: httpx.Client, topic: str, partition_count: int = 1) -> list[str]:
    config = {"name": topic, "numPartitions": partition_count, "replicationFactor": 1}
    assert {"success": True} == ok(http.post("/topics", json=config))
    return ok(http.get(f"/topics/{topic}"))["partitions"]


def ok(response: httpx.Response) -> Any:
    assert 200 == response.status_code, response.text
    assert "application/json" == response.headers["content-type"]
    return response.json()


def b64(raw: bytes) -> str:
    return b64encode(raw).decode()


def produce(http: httpx.Client, path: str, *messages: Any) -> list[str]:
    """Messages, or values of messages, to a topic or partition; returns their offsets."""
    listed = [{"value": b64(each)} if isinstance(each, bytes) else each for each in messages]
    return ok(http.post(f"/topics/{path}", json={"messages": listed}))["offsets"]


def results(response: httpx.Response) -> list[dict[str, Any]]:
    """The messages of a stream."""
    assert 200 == response.status_code, response.text
    assert response.text == "" or response.text.endswith("\n")
    return [json.loads(line)["result"] for line in response.text.splitlines()]


def consume(http: httpx.Client, path: str, group: str = "g", **query: str) -> list[Any]:
    return results(http.get(f"/topics/{path}/{group}/c", params=query))


def values(messages: list[dict[str, Any]]) -> list[bytes]:
    return [b64decode(each.get("value", "")) for each in messages]
