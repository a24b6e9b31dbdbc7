"""Faults done to running streams: kills, outages, company. The tests use them, and ``benchmarks/faults.py`` at greater length."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

from tests.live import SETTLE_S, Bench, publishing
from tests.traffic import Balance, Spans, Traffic, letters_in

LONGEST_WORK_S: Final = 2.5


class Kill(NamedTuple):
    """One ``kill -9``: when, how long the stream had worked by then, dead letters so far and how many of them were repeats."""

    number: int
    second: float
    worked_s: float
    under_load: bool
    letters: int
    again: int


class Outage(NamedTuple):
    """How a stream got over an outage; ``recovered_s``: from its end until everything was in."""

    survived: bool
    recovered_s: float
    balance: Balance
    status: int
    document: dict[str, Any]
    said: str


class Pair(NamedTuple):
    """What two streams on one subscription did; ``settled_s``: from the last message until everything was in."""

    balance: Balance
    settled_s: float
    documents: list[dict[str, Any]]


def kill_at_random(bench: Bench, rng: random.Random, kills: int, sent: Future[None]) -> Iterator[Kill]:
    """Start a stream, kill it up to 2.5 s after its first work, and again."""
    start = time.monotonic()
    for number in range(1, kills + 1):
        stream = bench.stream()
        bench.at_work(stream)
        works = rng.uniform(0, LONGEST_WORK_S)
        time.sleep(works)
        assert stream.process.poll() is None, stream.said
        stream.kill()
        letters = letters_in(bench.dead_letters)
        again = len(letters) - len({(letter.reason, letter.size) for letter in letters})
        yield Kill(number, time.monotonic() - start, works, not sent.done(), len(letters), again)


def two_at_once(bench: Bench, traffic: Traffic, expected: dict[str, Spans]) -> Pair:
    """Two streams on one subscription until everything is in, then SIGTERM to both."""
    streams = [bench.stream(), bench.stream()]
    with publishing(bench.topic, traffic.messages, rate=len(traffic.messages) / 12) as sent:
        sent.result()
        start = time.monotonic()
        balance = bench.settled(traffic, expected)
        settled_s = time.monotonic() - start
    ended = [stream.stopped() for stream in streams]
    assert [status for status, _ in ended] == [0, 0], [stream.said for stream in streams]
    return Pair(balance, settled_s, [document for _, document in ended])


def freeze(bench: Bench, traffic: Traffic, expected: dict[str, Spans], emulator: str, seconds: float) -> Outage:
    """A stream at work, whose ``emulator`` (``pubsub`` or ``bigtable``) answers nothing for so many seconds."""
    with publishing(bench.topic, traffic.messages, rate=len(traffic.messages) / (seconds + 4)) as sent:
        stream = bench.stream()
        bench.at_work(stream)
        with bench.frozen(emulator):
            time.sleep(seconds)
        ended = time.monotonic()
        sent.result()
        balance = bench.settled(traffic, expected, SETTLE_S + seconds)
        recovered_s = time.monotonic() - ended
        survived = stream.process.poll() is None
        status, document = stream.stopped()
    return Outage(survived, recovered_s, balance, status, document, stream.said)
