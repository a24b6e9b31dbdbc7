"""Where dead letters go: ``file:PATH`` (JSON lines, appended) or ``pubsub://PROJECT/topics/TOPIC``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

import apache_beam as beam
import msgspec

from pipelines.sinks import open_sink
from schemas.dead_letter import DeadLetter
from transforms.batch import Batch

_ENCODE: Final = msgspec.json.Encoder().encode
_DECODE: Final = msgspec.json.Decoder(DeadLetter).decode


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """The letter as one line of JSON."""
    return _ENCODE(letter)


def decode_dead_letter(line: bytes) -> DeadLetter:
    """The letter in a line of JSON; ``msgspec.DecodeError`` when it is none."""
    return _DECODE(line)


@dataclasses.dataclass(eq=False)
class WriteDeadLetters(beam.PTransform):  # type: ignore[misc]
    """Batches of dead letters → a sink, in the bundle that made them, so before anything is acknowledged."""

    uri: str

    def expand(self, letters: beam.PCollection[Batch]) -> beam.PCollection[int]:
        """Write each batch; how many were written."""
        return letters | "Keep" >> beam.ParDo(_WriteDeadLetters(self.uri)).with_output_types(int)


class _WriteDeadLetters(beam.DoFn):  # type: ignore[misc]
    def __init__(self, uri: str) -> None:
        self._uri = uri

    def setup(self) -> None:
        self._sink = open_sink(self._uri)

    def process(self, letters: list[DeadLetter]) -> Iterator[int]:
        self._sink.write([encode_dead_letter(letter) for letter in letters])
        yield len(letters)
