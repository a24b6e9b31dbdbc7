"""Where dead letters go: ``file:PATH`` (JSON lines, appended) or ``pubsub://PROJECT/topics/TOPIC``.

Of what forgotten people sent nothing is kept: their letters say that something was refused, and why.
"""

from __future__ import annotations

import contextlib
import dataclasses
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import apache_beam as beam
import msgspec

from pipelines.sinks import open_sink
from schemas.dead_letter import DeadLetter
from schemas.identity import NEVER, digest_of
from schemas.instants import parse_instant
from schemas.pseudonym import Pseudonyms
from serving.keys import load_ring
from serving.store import open_store
from transforms.archive_graves import ArchiveGraves
from transforms.batch import Batch
from transforms.erasing import without
from transforms.erasing_files import erase_lines
from transforms.names import Names
from transforms.patience import patiently
from transforms.traces import Traces

_ENCODE: Final = msgspec.json.Encoder().encode
_IDS: Final = ("user_id", "anonymous_id")
_DECODE: Final = msgspec.json.Decoder(DeadLetter).decode


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """The letter as one line of JSON."""
    return _ENCODE(letter)


def decode_dead_letter(line: bytes) -> DeadLetter:
    """The letter in a line of JSON; ``msgspec.DecodeError`` when it is none."""
    return _DECODE(line)


def payload_without_forgotten(letter: DeadLetter, graves: Mapping[bytes, int]) -> dict[str, Any] | None:
    """A letter's payload without a forgotten anonymous id; ``None`` where there is none, or it is a forgotten profile's.

    ``graves``: the instants (ms UTC) that ids were forgotten at, by digest. A letter is as old as its event, else as its refusal.
    """
    payload = letter.payload
    if not payload or not graves:
        return payload
    try:
        time = parse_instant(payload.get("event_time", ""))
    except (ValueError, TypeError):
        time = parse_instant(letter.refused_at)
    user, anonymous = payload.get("user_id"), payload.get("anonymous_id")
    of_user, of_anonymous = (graves.get(digest_of(str(each)), NEVER) if each else NEVER for each in (user, anonymous))
    if time <= of_user or (time <= of_anonymous and not user):
        return None
    if time > of_anonymous:
        return payload
    kept = {name: value for name, value in payload.items() if not name.endswith("anonymous_id")}
    return dict(without(kept, frozenset([str(anonymous)])))


@dataclasses.dataclass(eq=False)
class WriteDeadLetters(beam.PTransform):  # type: ignore[misc]
    """Batches of dead letters → a sink, in the bundle that made them, so before anything is acknowledged.

    ``store`` or ``archive`` knows who was forgotten; the keys of ``key_from`` (see ``load_ring``) tell under which names,
    ``None``: under the one that a letter has.
    """

    uri: str
    store: str | None = None
    archive: str | None = None
    key_from: str | None = None

    def expand(self, letters: beam.PCollection[Batch]) -> beam.PCollection[int]:
        """Write each batch; how many were written."""
        return letters | "Keep" >> beam.ParDo(
            _WriteDeadLetters(self.uri, self.store, self.archive, self.key_from)
        ).with_output_types(int)


class _WriteDeadLetters(beam.DoFn):  # type: ignore[misc]
    def __init__(self, uri: str, store: str | None, archive: str | None, key_from: str | None) -> None:
        self._uri, self._store, self._archive, self._key_from = uri, store, archive, key_from

    def setup(self) -> None:
        self._sink = open_sink(self._uri)
        self._graves = _Graves(self._store, self._archive)
        ring = None if self._key_from is None else load_ring(self._key_from)
        self._names = None if ring is None or len(ring.keys) == 1 else Names(Pseudonyms(ring))

    def process(self, letters: list[DeadLetter]) -> Iterator[int]:
        self._graves.look()
        times = self._times_of(letters)
        kept = [msgspec.structs.replace(letter, payload=payload_without_forgotten(letter, times)) for letter in letters]
        self._sink.write([encode_dead_letter(letter) for letter in kept])
        if self._graves.look() and self._uri.startswith("file:"):  # who was forgotten meanwhile may have come back by it
            erase_lines(self._uri.removeprefix("file:"), _traces_of(kept, self._times_of(kept)))
        yield len(letters)

    def _times_of(self, letters: Sequence[DeadLetter]) -> Mapping[bytes, int]:
        times = self._graves.times
        return times if self._names is None or not times else {**times, **_under_other_names(letters, times, self._names)}


class _Graves:
    """Who a store or an archive knows to be forgotten, as of the last look."""

    def __init__(self, store: str | None, archive: str | None) -> None:
        self._store = None if store is None else open_store(store)
        self._archive = None if archive is None else ArchiveGraves(archive)
        self._burials = 0
        self.times: Mapping[bytes, int] = {}

    def look(self) -> bool:
        """Read what is new; whether anything is."""
        if self._archive is not None and self._archive.look():
            self.times = self._archive.digests
            return True
        return self._store is not None and patiently(self._look_into_store, patience_s=None)

    def _look_into_store(self) -> bool:
        assert self._store is not None
        burials = self._store.burials()
        if burials == self._burials:
            return False
        self.times = {tombstone.digest: tombstone.time for tombstone in self._store.tombstones()}
        self._burials = burials
        return True


def _traces_of(letters: Sequence[DeadLetter], graves: Mapping[bytes, int]) -> Traces:
    """What to look for of those in some letters who were forgotten."""
    ids = [str(letter.payload[name]) for letter in letters if letter.payload for name in _IDS if letter.payload.get(name)]
    return Traces({each: graves[digest_of(each)] for each in ids if digest_of(each) in graves})


def _under_other_names(letters: Sequence[DeadLetter], graves: Mapping[bytes, int], known: Names) -> dict[bytes, int]:
    """By digests of the ids in some letters when these were forgotten (ms UTC), under whichever name: sealed ids tell."""
    known.bound()
    found: dict[bytes, int] = {}
    for payload in filter(None, (letter.payload for letter in letters)):
        for key, sealed in ((payload.get(name), payload.get(f"sealed_{name}")) for name in _IDS):
            if key and isinstance(sealed, str):
                with contextlib.suppress(ValueError):  # not base64, so no sealed id
                    known.learn(str(key), b64decode(sealed))
                found[digest_of(str(key))] = max(graves.get(digest_of(name), NEVER) for name in known.of(str(key)))
    return {digest: time for digest, time in found.items() if time != NEVER}
