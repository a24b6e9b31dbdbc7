"""Events with raw ids → events with pseudonyms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import apache_beam as beam

from schemas.event import Event
from schemas.pseudonym import Pseudonyms, pseudonymise
from serving.keys import load_ring
from transforms.batch import Batch


@dataclasses.dataclass(eq=False)
class Pseudonymise(beam.PTransform):  # type: ignore[misc]
    """Batches of events → batches of events whose ids are pseudonyms; ``key_from`` names the store, see ``load_ring``."""

    key_from: str

    def expand(self, events: beam.PCollection[Batch]) -> beam.PCollection[Batch]:
        """Apply to each event."""
        return events | "Ids" >> beam.ParDo(_Pseudonymise(self.key_from)).with_output_types(Batch)


class _Pseudonymise(beam.DoFn):  # type: ignore[misc]
    def __init__(self, key_from: str) -> None:
        self._key_from = key_from

    def setup(self) -> None:
        self._pseudonyms = Pseudonyms(load_ring(self._key_from))

    def process(self, events: list[Event]) -> Iterator[Batch]:
        yield Batch(pseudonymise(event, self._pseudonyms) for event in events)
