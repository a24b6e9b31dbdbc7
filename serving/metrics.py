"""What the gateway measures, for Prometheus. No label ever holds an id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving import featured, reader
from serving.outbox import Counts

_BUCKETS_S: Final = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.06, 0.1, 0.25, 1.0)
FAULTS: Final = ("assignment", "featured", "query", "exposure", "consent", "rules", "experiments", "look")
FALLBACKS: Final = tuple(dict.fromkeys((*get_args(reader.Reason), *get_args(featured.Reason))))  # and those of the assignment
Measure = tuple[str, Callable[[], float]]  # its help text, and what gives its value
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One a gateway, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "route", "status")
        self.seconds = self._histogram("request_seconds", "Time to answer.", "route")
        self.stages = self._histogram("stage_seconds", "Time by stage.", "stage", "source")
        self.fallbacks = self._counter("fallbacks", "Answers without personalisation, by why.", "reason")
        self.rungs = self._counter("rungs", "Positions by the rung that filled them.", "rung")
        self.conflicts = self._counter("conflicts", "Segments that a filter ruled out.", "segment", "attribute")
        self.exposures = self._counter("exposures", "Impressions, by whether they were taken.", "taken")
        self.refused = self._counter("access_refused", "Requests let in by no key.", "reason")
        self.unknown_segments = self._counter("unknown_segments", "Segments of users that no rule in force has.")
        self.faults = self._counter("faults", "Faults in spite of which all went on.", "where")
        # From the start, at nought: Prometheus sees no increase in a counter that comes with its first count.
        begun = ((self.fallbacks, FALLBACKS), (self.rungs, featured.RUNGS), (self.exposures, ("yes", "no")), (self.faults, FAULTS))
        for counter, values in begun:
            for value in values:
                counter.labels(value)

    def watch(self, measures: Mapping[str, Measure], outbox: Callable[[], Counts | None]) -> None:
        """Ask these at each scrape: gauges by name, and what becomes of events."""
        self.registry.register(_Watched(measures, outbox))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="forecourt", registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, namespace="forecourt", registry=self.registry, buckets=_BUCKETS_S)


class _Watched(Collector):
    def __init__(self, measures: Mapping[str, Measure], outbox: Callable[[], Counts | None]) -> None:
        self._measures, self._outbox = measures, outbox

    def collect(self) -> Iterator[Metric]:
        for name, (text, measure) in self._measures.items():
            yield GaugeMetricFamily(f"forecourt_{name}", text, measure())
        counts = self._outbox()
        if counts is not None:
            yield GaugeMetricFamily("forecourt_outbox_waiting", "Events that wait to be published.", counts.waiting)
            for name in ("written", "dropped", "failures"):
                yield CounterMetricFamily(f"forecourt_outbox_{name}", "Events, or failed writes.", getattr(counts, name))
