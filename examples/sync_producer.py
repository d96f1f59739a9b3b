"""
Producing without asyncio, one by one and many at a time.

Run it: `python examples/sync_producer.py [ADDRESS]`.
"""

import sys
from contextlib import suppress
from datetime import timedelta

from sandglass import Client, ConflictError


def main(address: str = "127.0.0.1:7170") -> None:
    with Client(address) as client:
        with suppress(ConflictError):  # it may be there already
            client.create_topic("payments")

        # Returns when the message is on the disk, and says where it went.
        receipt = client.produce("payments", "12.50", key="ann", headers={"currency": "EUR"})
        print(f"one: partition {receipt.partition}, index {receipt.index}")
        client.produce("payments", "in a minute", delay=timedelta(minutes=1))

        # Many on their way from one thread: they share requests, and each has its own answer.
        promises = [client.produce_nowait("payments", str(each)) for each in range(100)]
        print(f"promises: {len({promise.result().index for promise in promises})} answers")

        # Many at hand: large requests, several on their way at a time.
        summary = client.produce_many("payments", (b"%d" % each for each in range(10_000)))
        print(f"many: {summary.count} messages")


if __name__ == "__main__":
    main(*sys.argv[1:])
