"""The broker for tests, as tests without asyncio have it."""

import urllib.request
from pathlib import Path

import pytest

from sandglass import Client, PreconditionError
from sandglass.testing import Broker


def test_a_test_without_asyncio_has_a_node_of_its_own() -> None:
    with Broker() as broker, Client(broker.address) as client:
        client.create_topic("orders")
        client.produce("orders", b"order 1")

        got = [each.value for each in client.consume("orders", group="billing", drain=True)]

        assert [b"order 1"] == got
        with urllib.request.urlopen(f"http://{broker.http_address}/readyz") as answer:
            assert 200 == answer.status


def test_a_message_survives_stop_and_start() -> None:
    with Broker() as broker:
        with Client(broker.address) as client:
            client.create_topic("orders")
            client.produce("orders", b"order 1")

        broker.stop()
        broker.start()

        with Client(broker.address) as client:
            got = [each.value for each in client.consume("orders", group="g", drain=True)]
            assert [b"order 1"] == got


def test_a_directory_in_use_is_refused_and_nothing_is_left_running(tmp_path: Path) -> None:
    second = Broker(data=tmp_path / "data")

    with Broker(data=tmp_path / "data"), pytest.raises(PreconditionError):
        second.__enter__()

    with Broker(data=tmp_path / "data") as broker:
        assert broker.address
