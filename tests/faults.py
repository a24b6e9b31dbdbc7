"""Faults done to running streams: kills, outages, company. The tests use them, and ``benchmarks/faults.py`` at greater length."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

import numpy as np

from pipelines.pubsub import ACK_DEADLINE_S
from tests.live import SETTLE_S, Bench, Stream, publishing
from tests.traffic import Balance, Spans, Traffic, letters_in

LONGEST_WORK_S: Final = 2.5
BOTH_WORK_S: Final = 10.0


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


def stream_at_work(bench: Bench, messages: Sequence[bytes]) -> Stream:
    """A stream that is through its start and working on the messages, all of which are published."""
    with publishing(bench.topic, messages) as sent:
        stream = bench.stream()
        bench.at_work(stream)
        sent.result()
    return stream


def kill_at_random(bench: Bench, rng: random.Random, kills: int, messages: Sequence[bytes]) -> Iterator[Kill]:
    """Start a stream, kill it up to 2.5 s into its work while messages come in, and again; in the end all are published."""
    start = time.monotonic()
    parts = np.array_split(np.arange(len(messages)), kills + 1)
    *loads, rest = ([messages[i] for i in part] for part in parts)
    with contextlib.ExitStack() as stack:
        publishers: list[Future[None]] = []
        for number, load in enumerate(loads, start=1):
            waiting, coming = load[: len(load) // 3], load[len(load) // 3 :]
            stream = stream_at_work(bench, waiting)
            publishers.append(stack.enter_context(publishing(bench.topic, coming, len(coming) / (LONGEST_WORK_S + 1))))
            works = LONGEST_WORK_S * rng.random() ** 3  # mostly early, while what was waiting is being written
            time.sleep(works)
            assert stream.process.poll() is None, stream.said
            under_load = not publishers[-1].done()
            stream.kill()
            letters = letters_in(bench.dead_letters)
            again = len(letters) - len({(letter.reason, letter.size) for letter in letters})
            yield Kill(number, time.monotonic() - start, works, under_load, len(letters), again)
        publishers.append(stack.enter_context(publishing(bench.topic, rest)))
        for sent in publishers:
            sent.result()


def two_at_once(bench: Bench, traffic: Traffic, expected: dict[str, Spans]) -> Pair:
    """Two streams on one subscription until everything is in, then SIGTERM to both."""
    first, rest = traffic.messages[:500], traffic.messages[500:]
    streams = [bench.stream(), stream_at_work(bench, first)]
    with publishing(bench.topic, rest, len(rest) / BOTH_WORK_S) as sent:
        sent.result()
        start = time.monotonic()
        balance = bench.settled(traffic, expected)
        settled_s = time.monotonic() - start
    ended = [stream.stopped() for stream in streams]
    assert [status for status, _ in ended] == [0, 0], [stream.said for stream in streams]
    return Pair(balance, settled_s, [document for _, document in ended])


def freeze(bench: Bench, traffic: Traffic, expected: dict[str, Spans], emulator: str, seconds: float) -> Outage:
    """A stream at work, whose ``emulator`` (``pubsub`` or ``bigtable``) answers nothing for so many seconds."""
    first, rest = traffic.messages[:500], traffic.messages[500:]
    stream = stream_at_work(bench, first)
    with publishing(bench.topic, rest, len(rest) / (seconds + 2)) as sent:
        time.sleep(1)
        with bench.frozen(emulator):
            time.sleep(seconds)
        ended = time.monotonic()
        sent.result()
        balance = bench.settled(traffic, expected, SETTLE_S + ACK_DEADLINE_S)  # an answer may have got lost with its messages
        recovered_s = time.monotonic() - ended
        survived = stream.process.poll() is None
        status, document = stream.stopped()
    return Outage(survived, recovered_s, balance, status, document, stream.said)
