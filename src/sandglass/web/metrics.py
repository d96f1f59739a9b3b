"""Figures as text for Prometheus: names, kinds and texts are those of `sandglass.telemetry`."""

import asyncio
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from sandglass import telemetry
from sandglass.broker.broker import Broker
from sandglass.broker.figures import Figures, read_figures


class Scrapes:
    """One scrape at a time: whoever asks while one runs is given the same."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._running: asyncio.Task[bytes] | None = None

    async def text(self, http: telemetry.HttpCounts) -> bytes:
        """All metrics of the node, as text."""
        if self._running is None:
            self._running = asyncio.create_task(scrape(self._broker, http), name="scrape")
            self._running.add_done_callback(self._over)
        return await asyncio.shield(self._running)

    def _over(self, _: asyncio.Task[bytes]) -> None:
        self._running = None


async def scrape(broker: Broker, http: telemetry.HttpCounts) -> bytes:
    """All metrics of the node, as text."""
    figures = await read_figures(broker)
    for code, count in http.answers.items():
        figures.add("http_answers", count, str(code))
    figures.add("http_connections", len(http.connections))
    figures.add("http_streams", len(http.streams))
    figures.add("http_refused_connections", http.refused_count)
    counts = broker.loop.stats
    histograms = {
        "lateness_seconds": counts.lateness_ms,
        "sync_seconds": counts.sync_ms,
    }
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(figures, histograms))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, figures: Figures, histograms: dict[str, telemetry.Histogram]) -> None:
        self._figures = figures
        self._histograms = histograms

    def collect(self) -> Iterator[Metric]:
        unknown = self._figures.values.keys() - telemetry.NAMES
        assert not unknown, f"no such metrics: {sorted(unknown)}"
        for metric in telemetry.METRICS:
            name = telemetry.PREFIX + metric.name
            if metric.kind == "histogram":
                buckets, total = _buckets(self._histograms[metric.name])
                yield HistogramMetricFamily(name, metric.help, buckets, total)
                continue
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(name, metric.help, labels=metric.labels)
            for labels, value in sorted(self._figures.values.get(metric.name, {}).items()):
                family.add_metric(labels, value)
            yield family


def _buckets(histogram: telemetry.Histogram) -> tuple[Sequence[tuple[str, float]], float]:
    """From ms, each by itself, to seconds, each with all below it."""
    count = 0
    buckets: list[tuple[str, float]] = []
    for bound, each in zip(
        (*(str(bound / 1000) for bound in histogram.bounds), "+Inf"),
        histogram.counts,
        strict=True,
    ):
        count += each
        buckets.append((bound, count))
    return buckets, histogram.total / 1000
