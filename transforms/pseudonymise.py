"""Events with raw ids → events with pseudonyms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import apache_beam as beam

from schemas.event import Event
from schemas.pseudonym import Pseudonyms, replaced
from serving.keys import load_key


def pseudonymise(event: Event, pseudonyms: Pseudonyms) -> Event:
    """The event with pseudonyms for its ids, in its experiment object too; an event that has them already as it is."""
    if event.pseudonymised:
        return event
    replacements = {raw: pseudonyms(raw) for raw in (event.user_id, event.anonymous_id) if raw is not None}
    return event._replace(
        user_id=replacements.get(event.user_id or ""),
        anonymous_id=replacements.get(event.anonymous_id or ""),
        experiment=None if event.experiment is None else replaced(event.experiment, replacements),
    )


@dataclasses.dataclass(eq=False)
class Pseudonymise(beam.PTransform):  # type: ignore[misc]
    """Lists of events → lists of events whose ids are pseudonyms; ``key_from`` names the store, see ``load_key``."""

    key_from: str

    def expand(self, events: beam.PCollection[list[Event]]) -> beam.PCollection[list[Event]]:
        """Apply to each event."""
        return events | "Ids" >> beam.ParDo(_Pseudonymise(self.key_from)).with_output_types(list[Event])


class _Pseudonymise(beam.DoFn):  # type: ignore[misc]
    def __init__(self, key_from: str) -> None:
        self._key_from = key_from

    def setup(self) -> None:
        self._pseudonyms = Pseudonyms(load_key(self._key_from))

    def process(self, events: list[Event]) -> Iterator[list[Event]]:
        yield [pseudonymise(event, self._pseudonyms) for event in events]
