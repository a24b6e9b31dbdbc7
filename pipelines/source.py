"""Where events come from, chosen by URI and runner: a file, our own Pub/Sub pull, or Beam's Pub/Sub read on Dataflow."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import apache_beam as beam

from pipelines.file_source import ReadFile, check_file
from schemas.errors import ConfigError, shown
from transforms.batch import Batch

_DATAFLOW_BATCH: Final = 1_000


def file_path(uri: str) -> str | None:
    """The path in a ``file:`` URI (``file:PATH`` or ``file:///PATH``), ``None`` for another scheme."""
    if not uri.startswith("file:"):
        return None
    path = uri.removeprefix("file:")
    return path.removeprefix("//") if path.startswith("///") else path


def check_source(uri: str) -> None:
    """Return when the source can be read; an error that says what to do otherwise."""
    path = file_path(uri)
    if path:
        check_file(path)
    elif uri.startswith("pubsub://"):
        from pipelines.pubsub import check_subscription

        check_subscription(uri)
    else:
        msg = f"source == {shown(uri)}, must be file:PATH or pubsub://PROJECT/subscriptions/SUBSCRIPTION"
        raise ConfigError(msg)


@dataclasses.dataclass(eq=False)
class ReadEvents(beam.PTransform):  # type: ignore[misc]
    """Messages (bytes) in batches. ``dataflow``: read with Beam's own source, batched inside the bundle."""

    uri: str
    dataflow: bool = False
    limits: Any = None  # pipelines.pubsub.BundleLimits; None: its defaults

    def expand(self, begin: Any) -> beam.PCollection[Batch]:
        """Read from the pipeline's start."""
        path = file_path(self.uri)
        if path is not None:
            return begin | "File" >> ReadFile(path)
        from pipelines.pubsub import subscription_path
        from pipelines.pubsub_source import BundleLimits, PullMessages

        if self.dataflow:
            read = beam.io.ReadFromPubSub(subscription=subscription_path(self.uri))
            batches = beam.BatchElements(min_batch_size=1, max_batch_size=_DATAFLOW_BATCH)
            return begin | "PubSub" >> read | "Batch" >> batches.with_output_types(Batch)
        return begin | "Pull" >> PullMessages(self.uri, self.limits or BundleLimits())
