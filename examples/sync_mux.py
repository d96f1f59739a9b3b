"""Functions called by topic, in threads: `python examples/sync_mux.py [ADDRESS]`."""

import signal
import sys
from contextlib import suppress
from datetime import timedelta

from sandglass import Client, ConflictError, Mux, Received, Retry

TOPICS = ("sync-emails", "sync-invoices")


def main(address: str = "127.0.0.1:7170") -> None:
    with Client(address) as client:
        for topic in TOPICS:
            with suppress(ConflictError):  # it may be there already
                client.create_topic(topic)
        mux = Mux(client, group="office", concurrency=4)

        @mux.on("sync-emails", retry=Retry(timedelta(milliseconds=100)))
        def send(message: Received) -> None:
            if message.attempt == 1:
                raise ConnectionError("the mail server is away")  # again, 100 ms later
            print(f"sent: {message.value.decode()}, attempt {message.attempt}", flush=True)
            client.produce("sync-invoices", message.value)

        def file(message: Received) -> None:
            print(f"filed: {message.value.decode()}", flush=True)
            mux.stop()  # a real one goes on, until a signal comes

        mux.add("sync-invoices", file, concurrency=1)
        client.produce("sync-emails", "to ann")
        mux.run(signals=[signal.SIGTERM])


if __name__ == "__main__":
    main(*sys.argv[1:])
