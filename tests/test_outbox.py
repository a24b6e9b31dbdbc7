"""The outbox: every event is written, or dropped and counted; its sink may block, fail, recover, be slow; ``put`` never waits."""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from serving.file_sink import FileSink
from serving.outbox import Counts, Outbox

pytestmark = pytest.mark.alone

SOON_S = 5.0


class MemorySink:
    """Keeps what it is given; ``fails`` the next so many writes; with its ``gate`` closed a write doesn't return."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.batches: list[int] = []
        self.tried_s: list[float] = []
        self.fails = 0
        self.takes_s = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def write(self, messages: Sequence[bytes]) -> None:
        self.tried_s.append(time.monotonic())
        self.entered.set()
        self.gate.wait()
        time.sleep(self.takes_s)
        if self.fails:
            self.fails -= 1
            text = "no such topic\nand a long story"
            raise RuntimeError(text)
        self.batches.append(len(messages))
        self.kept += messages


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def outbox_of(sink: MemorySink) -> Iterator[Callable[..., Outbox]]:
    made: list[Outbox] = []

    def make(**options: float) -> Outbox:
        made.append(Outbox(sink, **{"linger_s": 0.01, "first_pause_s": 0.01, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    sink.gate.set()
    sink.fails = 0
    for each in made:
        each.close(SOON_S)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def messages(number: int, size: int = 8) -> list[bytes]:
    return [b"%0*d" % (size, each) for each in range(number)]


def test_what_is_put_is_written_in_order_without_being_asked_for(sink: MemorySink, outbox_of: Callable[..., Outbox]) -> None:
    outbox = outbox_of()
    assert all(outbox.put(each) for each in messages(1_200))
    until(lambda: outbox.counts.waiting == 0)
    assert sink.kept == messages(1_200)
    assert max(sink.batches) <= 500
    assert outbox.counts == Counts(written=1_200, dropped=0, failures=0, waiting=0, waiting_bytes=0)


def test_many_threads_put_and_nothing_is_lost_or_repeated(sink: MemorySink, outbox_of: Callable[..., Outbox]) -> None:
    outbox = outbox_of(batch_messages=7)

    def put_all(name: int) -> None:
        for number in range(500):
            assert outbox.put(b"%d-%d" % (name, number))

    threads = [threading.Thread(target=put_all, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outbox.close(SOON_S) == 0
    assert sorted(sink.kept) == sorted(b"%d-%d" % pair for pair in itertools.product(range(4), range(500)))


@pytest.mark.parametrize(("bounds", "fit"), [({"max_messages": 10}, 10), ({"max_bytes": 80}, 10), ({"max_bytes": 87}, 10)])
def test_when_it_is_full_the_oldest_are_kept_and_the_rest_is_counted(
    sink: MemorySink, outbox_of: Callable[..., Outbox], bounds: dict[str, int], fit: int
) -> None:
    outbox = outbox_of(batch_messages=3, **bounds)
    sink.gate.clear()
    assert outbox.put(messages(1)[0])
    until(sink.entered.is_set)  # the batch in the write counts too
    taken = [outbox.put(each) for each in messages(25)[1:]]
    assert taken == [True] * (fit - 1) + [False] * (25 - fit)
    assert outbox.counts == Counts(written=0, dropped=25 - fit, failures=0, waiting=fit, waiting_bytes=8 * fit)
    sink.gate.set()
    until(lambda: outbox.counts.waiting == 0)
    assert sink.kept == messages(fit)
    assert outbox.put(b"room again")
    until(lambda: outbox.counts.written == fit + 1)


def test_a_message_larger_than_all_of_it_is_dropped(sink: MemorySink, outbox_of: Callable[..., Outbox]) -> None:
    outbox = outbox_of(max_bytes=100)
    assert not outbox.put(b"x" * 101)
    assert outbox.put(b"x" * 100)
    until(lambda: outbox.counts.written == 1)


def test_a_sink_that_fails_is_tried_again_until_it_takes_the_batch(
    sink: MemorySink, outbox_of: Callable[..., Outbox], caplog: pytest.LogCaptureFixture
) -> None:
    outbox = outbox_of()
    sink.fails = 3
    for each in messages(5):
        assert outbox.put(each)
    with caplog.at_level(logging.WARNING):
        until(lambda: outbox.counts.written == 5 and len(caplog.records) > 1)  # it is said once it is done
    assert sink.kept == messages(5)
    assert outbox.counts.failures == 3
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("outbox: the sink takes no events, ")
    assert said[0].endswith(" wait: no such topic")
    assert said[1:] == ["outbox: the sink takes events again"]  # not a line for each failure


def test_pauses_between_tries_double_up_to_the_longest(sink: MemorySink, outbox_of: Callable[..., Outbox]) -> None:
    outbox = outbox_of(first_pause_s=0.02, longest_pause_s=0.3)
    sink.fails = 6
    outbox.put(b"x")
    until(lambda: outbox.counts.written == 1)
    pauses = [later - earlier for earlier, later in itertools.pairwise(sink.tried_s)]
    for pause, least in zip(pauses, (0.02, 0.04, 0.08, 0.16, 0.3, 0.3), strict=True):
        assert least <= pause < least + 0.2  # a busy machine wakes late
    sink.fails = 1
    outbox.put(b"y")
    until(lambda: outbox.counts.written == 2)
    assert sink.tried_s[-1] - sink.tried_s[-2] < 0.25  # short again after a success


def test_while_the_sink_fails_the_bound_holds(sink: MemorySink, outbox_of: Callable[..., Outbox]) -> None:
    outbox = outbox_of(max_messages=10)
    sink.fails = 1_000_000
    taken = 0
    for each in messages(200):
        taken += outbox.put(each)
        time.sleep(0.0005)
    assert taken == 10
    sink.fails = 0
    assert outbox.close(SOON_S) == 0
    assert sink.kept == messages(10)
    assert outbox.counts.dropped == 190


def test_put_does_not_wait_for_a_sink_that_blocks(sink: MemorySink, outbox_of: Callable[..., Outbox]) -> None:
    outbox = outbox_of()
    sink.gate.clear()
    outbox.put(b"first")
    until(sink.entered.is_set)
    times = []
    for each in messages(5_000):
        start = time.perf_counter()
        outbox.put(each)
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 5e-6
    assert sink.kept == []


def test_closing_writes_what_waits_and_takes_no_more(sink: MemorySink, outbox_of: Callable[..., Outbox]) -> None:
    outbox = outbox_of(linger_s=60.0, batch_messages=10)
    for each in messages(95):
        outbox.put(each)
    start = time.monotonic()
    assert outbox.close(SOON_S) == 0
    assert time.monotonic() - start < SOON_S / 2
    assert sink.kept == messages(95)
    assert not outbox.put(b"late")
    assert outbox.counts == Counts(written=95, dropped=1, failures=0, waiting=0, waiting_bytes=0)


def test_closing_does_not_wait_out_a_long_pause(sink: MemorySink, outbox_of: Callable[..., Outbox]) -> None:
    outbox = outbox_of(first_pause_s=60.0, longest_pause_s=60.0)
    sink.fails = 1
    outbox.put(b"x")
    until(lambda: outbox.counts.failures == 1)
    assert outbox.close(SOON_S) == 0
    assert sink.kept == [b"x"]


@pytest.mark.parametrize("fault", ["blocks", "fails"])
def test_closing_gives_up_in_time_and_says_how_many_are_lost(
    sink: MemorySink, outbox_of: Callable[..., Outbox], caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    outbox = outbox_of()
    sink.gate.clear() if fault == "blocks" else None
    sink.fails = 1_000_000 if fault == "fails" else 0
    for each in messages(30):
        outbox.put(each)
    start = time.monotonic()
    assert outbox.close(0.3) == 30
    assert 0.25 < time.monotonic() - start < 2.0
    assert "outbox: 30 events were not written within 0.3 s and are lost" in caplog.text
    tries = len(sink.tried_s)
    time.sleep(0.2)
    assert len(sink.tried_s) - tries <= 1  # the thread has given up too


def test_a_slow_sink_is_waited_for_when_closing(sink: MemorySink, outbox_of: Callable[..., Outbox]) -> None:
    outbox = outbox_of(batch_messages=10)
    sink.takes_s = 0.05
    for each in messages(50):
        outbox.put(each)
    assert outbox.close(SOON_S) == 0
    assert sink.kept == messages(50)


def test_closing_twice_does_no_harm(sink: MemorySink, outbox_of: Callable[..., Outbox]) -> None:
    outbox = outbox_of()
    outbox.put(b"x")
    assert (outbox.close(SOON_S), outbox.close(SOON_S)) == (0, 0)
    assert sink.kept == [b"x"]


def test_a_file_has_a_line_for_each_message(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"cut')  # by a kill
    outbox = Outbox(FileSink(str(path)))
    for each in messages(3):
        outbox.put(each)
    assert outbox.close(SOON_S) == 0
    assert path.read_bytes().splitlines() == [b'{"cut', *messages(3)]
    assert path.stat().st_size == len(b'{"cut\n') + 3 * 9


def test_a_file_whose_folder_comes_back_gets_everything(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mounted" / "events.jsonl"
    outbox = Outbox(FileSink(str(path)), first_pause_s=0.01, longest_pause_s=0.02, linger_s=0.01)
    for each in messages(3):
        outbox.put(each)
    until(lambda: outbox.counts.failures > 2)
    path.parent.mkdir()
    until(lambda: outbox.counts.written == 3)
    assert path.read_bytes().splitlines() == messages(3)
    assert outbox.close(SOON_S) == 0


def test_of_a_batch_that_a_full_disk_takes_in_part_nothing_stays(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each try would fill what room there is with the same lines, and there would never be enough for the batch."""
    path, write, room = tmp_path / "events.jsonl", os.write, [12]

    def write_some(file: int, data: bytes) -> int:
        taken = min(room[0], len(data))
        room[0] -= taken
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:taken])

    path.write_bytes(b"before\n")
    monkeypatch.setattr(os, "write", write_some)
    sink = FileSink(str(path))
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            sink.write(messages(3))
        assert path.read_bytes() == b"before\n"
        room[0] = 12
    room[0] = 27
    sink.write(messages(3))
    assert path.read_bytes().splitlines() == [b"before", *messages(3)]


def test_one_writes_a_file_at_a_time(tmp_path: pathlib.Path) -> None:
    """What one writer takes back must not be another's."""
    path = tmp_path / "events.jsonl"
    outbox = Outbox(FileSink(str(path)), linger_s=0.01)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert outbox.put(b"x")
        time.sleep(0.1)
        assert path.read_bytes() == b""
    until(lambda: outbox.counts.written == 1)
    assert outbox.close(SOON_S) == 0
