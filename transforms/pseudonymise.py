"""Events with raw ids → events with pseudonyms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import apache_beam as beam

from schemas.event import Event
from schemas.pseudonym import Pseudonyms, replaced
from serving.keys import load_key
from transforms.batch import Batch


def pseudonymise(event: Event, pseudonyms: Pseudonyms) -> Event:
    """The event with pseudonyms for its ids, in its experiment object too; an event that has them already as it is."""
    if event.pseudonymised:
        return event
    user_id, anonymous_id = event.user_id, event.anonymous_id
    user = None if user_id is None else pseudonyms(user_id)
    anonymous = None if anonymous_id is None else pseudonyms(anonymous_id)
    experiment = event.experiment
    if experiment is not None:
        pairs = ((user_id, user), (anonymous_id, anonymous))
        experiment = replaced(experiment, {raw: known for raw, known in pairs if raw is not None and known is not None})
    event_id, event_type, event_time, _, _, session_id, listing_id, packed, _, _ = event
    return Event(event_id, event_type, event_time, user, anonymous, session_id, listing_id, packed, experiment, True)


@dataclasses.dataclass(eq=False)
class Pseudonymise(beam.PTransform):  # type: ignore[misc]
    """Batches of events → batches of events whose ids are pseudonyms; ``key_from`` names the store, see ``load_key``."""

    key_from: str

    def expand(self, events: beam.PCollection[Batch]) -> beam.PCollection[Batch]:
        """Apply to each event."""
        return events | "Ids" >> beam.ParDo(_Pseudonymise(self.key_from)).with_output_types(Batch)


class _Pseudonymise(beam.DoFn):  # type: ignore[misc]
    def __init__(self, key_from: str) -> None:
        self._key_from = key_from

    def setup(self) -> None:
        self._pseudonyms = Pseudonyms(load_key(self._key_from))

    def process(self, events: list[Event]) -> Iterator[Batch]:
        yield Batch(pseudonymise(event, self._pseudonyms) for event in events)
