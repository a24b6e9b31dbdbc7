"""Message bytes → checked events, or a dead letter that says what is wrong (``schemas.decoding``), in batches."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import apache_beam as beam

from schemas.decoding import Attributes, dead_letter_of, decode_event
from schemas.errors import EventError
from schemas.instants import clock_ms
from schemas.pseudonym import Pseudonyms
from serving.keys import load_ring
from transforms.batch import Batch
from transforms.counters import READ, REFUSED, UNKNOWN_ATTRIBUTES, UNKNOWN_VALUES, count
from transforms.rules_file import load_catalogue

EVENTS: Final = "events"
DEAD: Final = "dead"


@dataclasses.dataclass(eq=False)
class DecodeEvents(beam.PTransform):  # type: ignore[misc]
    """Batches of messages → ``events``: batches of `Event`; ``dead``: batches of `DeadLetter`.

    ``live``: events are judged by this machine's clock. ``shift``: ms added to each event time (a replay's rebase).
    """

    catalogue: str
    key_from: str
    live: bool = True
    shift: int = 0

    def expand(self, messages: beam.PCollection[list[bytes]]) -> Any:
        """Apply to each message."""
        work = _DecodeEvents(self.catalogue, self.key_from, live=self.live, shift=self.shift)
        return messages | "Decode" >> beam.ParDo(work).with_output_types(Batch, dead=Batch).with_outputs(DEAD, main=EVENTS)


class _DecodeEvents(beam.DoFn):  # type: ignore[misc]
    def __init__(self, catalogue: str, key_from: str, *, live: bool, shift: int) -> None:
        self._catalogue_path, self._key_from, self._live, self._shift = catalogue, key_from, live, shift

    def setup(self) -> None:
        self._catalogue = load_catalogue(self._catalogue_path)
        self._attributes = Attributes(self._catalogue)
        self._pseudonyms = Pseudonyms(load_ring(self._key_from))

    def process(self, messages: list[bytes]) -> Iterator[Any]:
        now = clock_ms()
        events, dead = [], []
        unknown_attributes = unknown_values = 0
        for data in messages:
            try:
                decoded = decode_event(data, self._attributes, now if self._live else None)
            except EventError as fault:
                dead.append(dead_letter_of(data, fault, self._catalogue, self._pseudonyms, now))
                continue
            event = decoded.event
            events.append(event._replace(event_time=event.event_time + self._shift) if self._shift else event)
            unknown_attributes += decoded.unknown_attributes
            unknown_values += decoded.unknown_values
        count(READ, len(messages))
        count(UNKNOWN_ATTRIBUTES, unknown_attributes)
        count(UNKNOWN_VALUES, unknown_values)
        for reason, number in Counter(letter.reason for letter in dead).items():
            count(REFUSED + reason, number)
        if events:
            yield Batch(events)
        if dead:
            yield beam.pvalue.TaggedOutput(DEAD, Batch(dead))
