"""A consumer's loop without asyncio: `python examples/sync_consumer.py [ADDRESS]`."""

import sys
from contextlib import suppress

from sandglass import Client, ConflictError


def main(address: str = "127.0.0.1:7170") -> None:
    with Client(address) as client:
        with suppress(ConflictError):  # it may be there already
            client.create_topic("parcels")
        client.produce_many("parcels", ["books", "shoes", "glass"])

        # `drain` ends the loop when nothing is left; without it the loop waits for more, and
        # Ctrl-C ends it. What was acknowledged by then is sent when the client is closed.
        for message in client.consume("parcels", group="depot", drain=True):
            if message.value == b"glass" and message.attempt == 1:
                message.nack(reason="not while it rains")  # comes again, as attempt 2
                continue
            print(f"delivered: {message.value.decode()}, attempt {message.attempt}")
            message.ack()

        # What came back after the first loop had seen the end.
        for message in client.consume("parcels", group="depot", drain=True):
            print(f"delivered: {message.value.decode()}, attempt {message.attempt}")
            message.ack()


if __name__ == "__main__":
    main(*sys.argv[1:])
