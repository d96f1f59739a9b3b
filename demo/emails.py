"""The tour's ten thousand e-mails: produced as fast as they go, then consumed and acked."""

import time
from dataclasses import dataclass

from sandglass import AsyncClient

TOPIC = "emails"
EMAIL = b'{"dest" : "hi@example.com"}'


@dataclass(frozen=True, slots=True)
class Rates:
    """How many e-mails went through, and how long that took, in seconds."""

    sent_count: int
    sent_s: float
    taken_count: int
    taken_s: float
    double_count: int
    acked_count: int

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing double, everything acked."""
        counts = {self.sent_count, self.taken_count, self.acked_count}
        return len(counts) == 1 and not self.double_count


async def send_emails(address: str, count: int) -> Rates:
    """Produces `count` e-mails, then takes them one by one and acks each."""
    async with AsyncClient(address) as client:
        await client.create_topic(TOPIC, partitions=3)
        start_s = time.perf_counter()
        summary = await client.produce_many(TOPIC, [EMAIL] * count)
        sent_s = time.perf_counter() - start_s

        places = set[tuple[str, int]]()
        taken_count = 0
        start_s = time.perf_counter()
        async for message in client.consume(TOPIC, group="mailer", credit=5000, drain=True):
            places.add((message.partition, message.index))
            taken_count += 1
            await message.ack()
        # The end of a drain waits until every ack is durable: the rate includes that.
        taken_s = time.perf_counter() - start_s
        groups = await client.list_groups(TOPIC, "mailer")
    return Rates(
        sent_count=summary.count,
        sent_s=sent_s,
        taken_count=len(places),
        taken_s=taken_s,
        double_count=taken_count - len(places),
        acked_count=sum(group.acked_count for group in groups),
    )
