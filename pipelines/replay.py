"""Dead letters back to where events come from, once what was wrong has been put right.

forecourt replay-dead-letters --dead-letters file:dead-letters.jsonl --to pubsub://P/topics/events --reason future
forecourt replay-dead-letters --dead-letters pubsub://P/subscriptions/dead --to file:again.jsonl --store bigtable://P/I/T

Those of forgotten people are left: ``--store`` and ``--archive`` say who that is. Streams and archives refuse them too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from pipelines.dead_letters import decode_dead_letter, payload_without_forgotten
from pipelines.file_source import lines_of
from pipelines.pubsub import check_subscription, subscription_path
from pipelines.pubsub_source import Puller
from pipelines.sinks import check_sink_uri, open_sink
from pipelines.source import file_path
from schemas.dead_letter import REASONS
from schemas.errors import ConfigError, shown
from schemas.identity import NEVER
from serving.store import check_uri, open_store
from transforms.archive_files import check_archive_path
from transforms.archive_graves import ArchiveGraves

_EMPTY_AFTER_S: Final = 5.0


@dataclasses.dataclass(frozen=True)
class Config:
    """Which dead letters go where; ``ConfigError`` when they can't."""

    dead_letters: str
    to: str
    reasons: tuple[str, ...] = ()
    store: str | None = None
    archive: str | None = None
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_sink_uri(self.to, "dead letters")
        if self.store is not None:
            check_uri(self.store)
        if self.archive is not None:
            check_archive_path(self.archive)
        for reason in self.reasons:
            if reason not in REASONS:
                msg = f"--reason == {shown(reason)}, must be one of {', '.join(REASONS)}"
                raise ConfigError(msg)


class Verdict(NamedTuple):
    """The payload to send again, or why there is none."""

    payload: bytes | None
    left: str = ""


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line."""
    parser = argparse.ArgumentParser(
        prog="forecourt replay-dead-letters", description="Dead letters back to where events come from."
    )
    parser.add_argument(
        "--dead-letters", required=True, metavar="URI", help="file:PATH or pubsub://P/subscriptions/S, read until empty"
    )
    parser.add_argument("--to", required=True, metavar="URI", help="file:PATH (appended) or pubsub://P/topics/T")
    parser.add_argument("--reason", action="append", default=[], dest="reasons", help="only these reasons; may be repeated")
    parser.add_argument("--store", help="leave those of people whom this store knows to be forgotten")
    parser.add_argument("--archive", metavar="DIR", help="or this archive")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")
    known = parser.parse_args(argv)
    return Config(known.dead_letters, known.to, tuple(known.reasons), known.store, known.archive, known.as_json)


def verdict_of(line: bytes, reasons: Sequence[str], graves: Mapping[bytes, int] | None = None) -> Verdict:
    """What to do with one dead letter, when only those with one of the reasons (any when there are none) are wanted.

    ``graves``: the instants (ms UTC) that ids were forgotten at, by digest.
    """
    try:
        letter = decode_dead_letter(line)
    except msgspec.DecodeError:
        return Verdict(None, "no dead letter")
    if reasons and letter.reason not in reasons:
        return Verdict(None, "another reason")
    if letter.payload is None:
        return Verdict(None, "nothing kept of it")
    payload = payload_without_forgotten(letter, graves or {})
    return Verdict(None, "forgotten") if payload is None else Verdict(msgspec.json.encode(payload))


def run(argv: Sequence[str]) -> int:
    """Replay; the exit status."""
    config = parse_args(argv)
    path = file_path(config.dead_letters)
    if path is not None and path == file_path(config.to):
        msg = f"--to == {config.to}, must be another file than --dead-letters"
        raise ConfigError(msg)
    if path is None:
        check_subscription(config.dead_letters)
    replayed = 0
    left: Counter[str] = Counter()
    for verdicts in _replayed(config, path, _graves(config)):
        replayed += sum(verdict.payload is not None for verdict in verdicts)
        left.update(verdict.left for verdict in verdicts if verdict.payload is None)
        print(f"{replayed:,} replayed", file=sys.stderr)
    if config.as_json:
        print(json.dumps({"replayed": replayed, "left": dict(left)}))
    else:
        behind = "".join(f"; {number:,} left: {why}" for why, number in left.items())
        print(f"{replayed:,} dead letters replayed to {config.to}{behind}", file=sys.stderr)
    return 0


def _graves(config: Config) -> dict[bytes, int]:
    """When ids were forgotten, by digest, as far as the store and the archive know."""
    graves: dict[bytes, int] = {}
    if config.store is not None:
        graves |= {tombstone.digest: tombstone.time for tombstone in open_store(config.store).tombstones()}
    if config.archive is not None:
        archived = ArchiveGraves(config.archive)
        archived.look()
        for digest, time in archived.digests.items():
            graves[digest] = max(time, graves.get(digest, NEVER))
    return graves


def _replayed(config: Config, path: str | None, graves: Mapping[bytes, int]) -> Iterator[list[Verdict]]:
    """Send batch after batch; of a subscription only what was sent is acknowledged."""
    sink = open_sink(config.to)
    if path is not None:
        for lines in lines_of(path):
            verdicts = [verdict_of(line, config.reasons, graves) for line in lines]
            sink.write([verdict.payload for verdict in verdicts if verdict.payload is not None])
            yield verdicts
        return
    puller = Puller(subscription_path(config.dead_letters), lease_s=None)
    try:
        while pulled := puller.take(_EMPTY_AFTER_S):
            verdicts = [verdict_of(line, config.reasons, graves) for line in pulled.messages]
            sink.write([verdict.payload for verdict in verdicts if verdict.payload is not None])
            sent = [ack_id for ack_id, verdict in zip(pulled.ack_ids, verdicts, strict=True) if verdict.payload is not None]
            puller.acknowledge(sent)
            yield verdicts
    finally:
        puller.close()
