"""The segment reader over a store that is played: every way to have no answer, and what is shared, kept and given up."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schemas.errors import RowError, StoreError, StoreTimeoutError, StoreUnavailableError
from schemas.identity import Link
from schemas.profile_row import Membership, ProfileRow, SegmentSpans, Span
from schemas.pseudonym import Pseudonyms, ring_of
from serving.reader import SegmentReader, SegmentsRead
from serving.row_loader import PROBE_KEY, Limits
from serving.store.rows import Rows

pytestmark = pytest.mark.alone

NOW = 1_000_000_000_000
LIMITS = Limits(deadline_s=0.5, max_reads=2, max_rows_a_read=3, max_waiting=4, probe_every_s=0.01, reconnect_every_s=0.03)


def linked(key: str, user: str, sealed: bytes = b"", **said: Any) -> ProfileRow:
    """The row of a browser that is a user's."""
    return ProfileRow(key, None, None, emptied="alias", link=Link(1, "e", user, "identify", sealed))._replace(**said)


def row(key: str, *names: str, as_of: int = NOW - 1_000, opted_out: bool = False) -> ProfileRow:
    spans = [SegmentSpans(name, [Span(as_of, NOW + 60_000, 0.9 - index / 10, 10, 9)]) for index, name in enumerate(names)]
    return ProfileRow(key, Membership(7, as_of, spans), None, opted_out=opted_out)


class PlayedRows:
    """A store that answers as told: after ``delay_s``, from ``held``, or with ``fault``."""

    def __init__(self) -> None:
        self.held: dict[str, ProfileRow | RowError] = {}
        self.delay_s = 0.0
        self.fault: Exception | None = None
        self.reads: list[list[str]] = []
        self.at_once = self.most_at_once = self.reconnects = 0

    async def read(self, keys: Sequence[str], deadline_s: float) -> Rows:
        self.reads.append(list(keys))
        delay_s, fault = self.delay_s, self.fault
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            try:
                await asyncio.wait_for(asyncio.sleep(delay_s), deadline_s)
            except TimeoutError as error:
                raise StoreTimeoutError("no answer") from error
            if fault is not None:
                raise fault
            held = {key: self.held.get(key, ProfileRow(key, None, None)) for key in keys}
            return {key: found._replace(key=key) if isinstance(found, ProfileRow) else found for key, found in held.items()}
        finally:
            self.at_once -= 1

    async def reconnect(self) -> None:
        self.reconnects += 1
        if self.fault is not None:
            msg = "nor can it be connected to"
            raise RuntimeError(msg)

    async def close(self) -> None:
        self.held.clear()

    @property
    def asked(self) -> list[str]:
        return [key for keys in self.reads for key in keys if key != PROBE_KEY]


class PlayedNames(Pseudonyms):
    """Names that can be read: user ``u`` is ``k:u``; with ``old`` keys, ``1:u`` too."""

    def __init__(self, keys: int = 1) -> None:
        super().__init__(ring_of("\n".join(f"{version}:a key that is long enough" for version in range(1, keys + 1)), "tests"))
        self._prefixes = ("k", "1")[:keys]

    def __call__(self, raw_id: str) -> str:
        return f"k:{raw_id}"

    def names(self, raw_id: str) -> tuple[str, ...]:
        return tuple(f"{prefix}:{raw_id}" for prefix in self._prefixes)

    def opened(self, sealed: bytes) -> str:
        return sealed.decode()


Playing = Callable[[SegmentReader, PlayedRows], Awaitable[None]]


def played(
    play: Playing,
    *,
    withdrawn: tuple[str, ...] = (),
    ttl_s: float = 60.0,
    timer: Callable[[], float] = time.monotonic,
    keys: int = 1,
    limits: Limits = LIMITS,
) -> None:
    """Run a play with a reader over a played store; user ``u`` has row ``k:u``, with two keys ``1:u`` too."""

    @asynccontextmanager
    async def reader_over(rows: PlayedRows) -> AsyncIterator[SegmentReader]:
        reader = SegmentReader(rows, PlayedNames(keys), withdrawn=lambda: withdrawn, limits=limits, ttl_s=ttl_s, timer=timer)
        yield reader
        await reader.close()

    async def run() -> None:
        rows = PlayedRows()
        async with reader_over(rows) as reader:
            await play(reader, rows)

    asyncio.run(run())


async def opened(reader: SegmentReader, rows: PlayedRows) -> None:
    """Ask until the breaker is open."""
    assert rows.fault is not None
    for number in itertools.count():
        if reader.breaker.state == "open":
            return
        assert (await reader.read(f"u{number}", now=NOW)).reason == "store_down"
        await asyncio.sleep(0.005)


def told(read: SegmentsRead) -> tuple[list[str], str, str | None]:
    return [segment.name for segment in read.segments], read.source, read.reason


def test_segments_come_with_version_age_and_source() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held["k:ann"] = row("k:ann", "electric", "suv")
        first, second = [await reader.read("ann", now=NOW) for _ in range(2)]
        assert told(first) == (["electric", "suv"], "store", None)
        assert told(second) == (["electric", "suv"], "cache", None)
        assert (first.rule_version, first.as_of, first.age_ms) == (7, NOW - 1_000, 1_000)
        assert first.segments[0].score == 0.9
        assert rows.asked == ["k:ann"]

    played(play)


@pytest.mark.parametrize(
    ("held", "withdrawn", "reason"),
    [
        (None, (), "unknown_user"),
        (ProfileRow("k:ann", None, None), (), "unknown_user"),
        (row("k:ann"), (), "no_segments"),
        (ProfileRow("k:ann", None, None, opted_out=True), (), "opted_out"),
        (ProfileRow("k:ann", None, None, emptied="opted_out"), (), "opted_out"),
        (ProfileRow("k:ann", None, None, emptied="no_views"), (), "unknown_user"),
        (ProfileRow("k:ann", None, None, emptied="alias"), (), "unknown_user"),
        (row("k:ann", "suv"), ("suv",), "withdrawn"),
        (row("k:ann", "suv", as_of=NOW + 6 * 60_000), (), "clock_behind"),
        (RowError("row k:ann…: a cell can't be read"), (), "bad_row"),
    ],
)
def test_no_segments_always_have_a_reason(held: ProfileRow | RowError | None, withdrawn: tuple[str, ...], reason: str) -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held = {} if held is None else {"k:ann": held}
        assert told(await reader.read("ann", now=NOW)) == ([], "none" if reason == "bad_row" else "store", reason)

    played(play, withdrawn=withdrawn)


def test_who_opted_in_again_has_segments_and_one_withdrawn_leaves_the_others() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held["k:ann"] = row("k:ann", "electric", "suv", opted_out=False)
        assert told(await reader.read("ann", now=NOW)) == (["suv"], "store", None)

    played(play, withdrawn=("electric",))


def test_a_browser_is_looked_up_where_there_is_no_user_and_nobody_without_either() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held["k:browser"] = row("k:browser", "suv")
        assert (await reader.read(None, "browser", now=NOW)).reason is None
        assert (await reader.read("", "", now=NOW)).reason == "unknown_user"
        assert (await reader.read(None, None, now=NOW)).reason == "unknown_user"
        assert rows.asked == ["k:browser"]

    played(play)


def test_membership_is_judged_at_each_instant_also_from_the_cache() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held["k:ann"] = row("k:ann", "suv")
        assert told(await reader.read("ann", now=NOW)) == (["suv"], "store", None)
        assert told(await reader.read("ann", now=NOW + 60_000)) == ([], "cache", "no_segments")

    played(play)


def test_all_who_ask_for_a_user_at_once_share_one_read() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held["k:ann"], rows.delay_s = row("k:ann", "suv"), 0.01
        reads = await asyncio.gather(*[reader.read("ann", now=NOW) for _ in range(50)])
        assert {read.source for read in reads} == {"store"}
        assert rows.asked == ["k:ann"]

    played(play)


def test_keys_that_wait_are_read_together_and_never_more_calls_at_once_than_allowed() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.delay_s = 0.005
        reads = await asyncio.gather(*[reader.read(f"u{number}", now=NOW) for number in range(8)])
        assert {read.reason for read in reads} == {"unknown_user"}
        assert rows.reads == [["k:u0", "k:u1", "k:u2"], ["k:u3", "k:u4", "k:u5"], ["k:u6", "k:u7"]]
        assert rows.most_at_once == LIMITS.max_reads

    played(play)


def test_beyond_what_may_wait_requests_are_shed_at_once() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.delay_s = 0.01
        reads = await asyncio.gather(*[reader.read(f"u{number}", now=NOW) for number in range(20)])
        reasons = [read.reason for read in reads]
        held = LIMITS.max_reads * LIMITS.max_rows_a_read + LIMITS.max_waiting
        assert reasons == ["unknown_user"] * held + ["overloaded"] * (20 - held)

    played(play)


def test_who_asks_in_one_turn_of_the_loop_is_read_in_one_call_and_nobody_waits_for_the_next_turn() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.delay_s = 0.02
        first = [asyncio.create_task(reader.read(user, now=NOW)) for user in ("ann", "bob")]
        await asyncio.sleep(0.005)
        second = asyncio.create_task(reader.read("cid", now=NOW))
        await asyncio.gather(*first, second)
        assert rows.reads == [["k:ann", "k:bob"], ["k:cid"]]
        assert rows.most_at_once == 2

    played(play)


def test_a_slow_store_costs_no_more_than_the_deadline() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.delay_s = 30.0
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert told(await reader.read("ann", now=NOW)) == ([], "none", "timeout")
        assert loop.time() - began < 10 * LIMITS.deadline_s  # and not 30 s

    played(play)


def test_keys_whose_askers_have_gone_are_not_read_any_more() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.delay_s = 30.0
        await asyncio.gather(*[reader.read(f"u{number}", now=NOW) for number in range(8)])
        await asyncio.sleep(LIMITS.deadline_s)
        assert rows.asked == ["k:u0", "k:u1", "k:u2", "k:u3", "k:u4", "k:u5"]

    played(play)


@pytest.mark.parametrize("fault", [StoreUnavailableError("gone"), StoreError("no such table"), RuntimeError("x")])
def test_after_failures_in_a_row_nobody_waits_until_a_probe_gets_through(fault: Exception) -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held["k:ann"], rows.fault = row("k:ann", "suv"), fault
        await opened(reader, rows)
        asked = len(rows.asked)
        assert (await reader.read("ann", now=NOW)).reason == "store_down"
        assert len(rows.asked) == asked
        while not rows.reconnects:
            await asyncio.sleep(0.01)
        assert [PROBE_KEY] in rows.reads
        rows.fault = None
        while reader.breaker.state == "open":
            await asyncio.sleep(0.01)
        assert told(await reader.read("ann", now=NOW)) == (["suv"], "store", None)

    played(play)


def test_a_success_between_failures_keeps_the_breaker_closed() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        for number in range(20):
            rows.fault = StoreUnavailableError("gone") if number % 3 else None
            await reader.read(f"u{number}", now=NOW)
        assert reader.breaker.state == "closed"

    played(play)


def test_a_damaged_row_spoils_neither_its_neighbours_nor_the_breaker() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.delay_s = 0.005
        for number in range(40):
            rows.held[f"k:u{number}"] = RowError("damaged") if number % 2 else row(f"k:u{number}", "suv")
        for start in range(0, 40, 4):
            reads = await asyncio.gather(*[reader.read(f"u{start + place}", now=NOW) for place in range(4)])
            assert [read.reason for read in reads] == [None, "bad_row"] * 2
        assert reader.breaker.state == "closed"

    played(play)


def test_what_was_read_is_kept_for_its_time_and_a_fault_not_at_all() -> None:
    clock = [0.0]

    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.fault = StoreUnavailableError("gone")
        assert (await reader.read("ann", now=NOW)).reason == "store_down"
        rows.fault = None
        assert told(await reader.read("ann", now=NOW)) == ([], "store", "unknown_user")
        rows.held["k:ann"] = row("k:ann", "suv")
        clock[0] = 1.9
        assert told(await reader.read("ann", now=NOW)) == ([], "cache", "unknown_user")
        clock[0] = 2.1
        assert told(await reader.read("ann", now=NOW)) == (["suv"], "store", None)
        reader.forget("ann")
        assert (await reader.read("ann", now=NOW)).source == "store"

    played(play, ttl_s=2.0, timer=lambda: clock[0])


def test_a_read_from_before_the_breaker_opened_does_not_close_it() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held["k:ann"], rows.delay_s = row("k:ann", "suv"), 0.4
        early = asyncio.create_task(reader.read("ann", now=NOW))
        while not rows.reads:
            await asyncio.sleep(0)
        rows.delay_s, rows.fault = 0.0, StoreUnavailableError("gone")
        await opened(reader, rows)
        rows.fault = None
        rows.delay_s = 30.0  # the probes get no answer
        assert (await early).reason is None
        assert reader.breaker.state == "open"

    played(play)


def test_who_opted_out_during_a_read_is_read_anew() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held["k:ann"], rows.delay_s = row("k:ann", "suv"), 0.05
        before = asyncio.create_task(reader.read("ann", now=NOW))
        await asyncio.sleep(0.01)
        reader.forget("ann")
        assert (await before).reason is None
        rows.held["k:ann"] = OUT
        assert (await reader.read("ann", now=NOW)).reason == "opted_out"

    played(play)


def test_a_client_that_raises_what_nobody_expects_costs_nobody_else_their_answer() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.fault, rows.delay_s = RuntimeError("a bug"), 0.01
        reads = await asyncio.gather(*[reader.read(f"u{number}", now=NOW) for number in range(4)])
        assert {read.reason for read in reads} == {"store_down"}
        rows.fault = None
        assert (await reader.read("u3", now=NOW)).reason == "unknown_user"

    played(play)


async def never(*_: object) -> Any:
    await asyncio.sleep(30)


async def cancels(*_: object) -> Any:
    raise asyncio.CancelledError


async def nothing(*_: object) -> Any:
    return None


@pytest.mark.parametrize(("read", "reconnect"), [(never, cancels), (cancels, never), (nothing, cancels)])
def test_whatever_a_client_does_the_store_is_given_up_and_found_again(read: Any, reconnect: Any) -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        sound = rows.read
        rows.read = read  # type: ignore[method-assign]
        rows.reconnect = reconnect  # type: ignore[method-assign]
        for number in itertools.count():
            assert (await reader.read(f"u{number}", now=NOW)).reason in ("timeout", "store_down")
            if reader.breaker.state == "open":
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        rows.read = sound  # type: ignore[method-assign]
        while reader.breaker.state == "open":
            await asyncio.sleep(0.01)
        assert (await reader.read("u0", now=NOW)).reason == "unknown_user"

    played(play, limits=LIMITS._replace(deadline_s=0.02))


def test_a_visitor_never_gets_a_row_that_is_not_theirs_nor_waits_for_one_that_was_not_sent() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        others = row("k:bob", "van")

        async def mixed_up(keys: Sequence[str], deadline_s: float) -> Rows:
            return {"k:ann": others, "k:bob": others, "k:eve": others}

        rows.read = mixed_up  # type: ignore[method-assign]
        reads = await asyncio.gather(*[reader.read(user, now=NOW) for user in ("ann", "bob", "cid")])
        assert [told(read) for read in reads] == [([], "none", "bad_row"), (["van"], "store", None), ([], "none", "bad_row")]
        assert reader.cached_rows == 1

    played(play)


def test_who_goes_away_leaves_the_read_to_those_who_share_it() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held["k:ann"], rows.delay_s = row("k:ann", "suv"), 0.02
        first, second, third = (asyncio.create_task(reader.read("ann", now=NOW)) for _ in range(3))
        await asyncio.sleep(0.005)
        first.cancel()
        third.cancel()
        assert told(await second) == (["suv"], "store", None)
        assert rows.asked == ["k:ann"]

    played(play)


def test_who_joins_a_key_that_waits_keeps_their_own_deadline() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held["k:ann"] = row("k:ann", "suv")
        sound, free = rows.read, asyncio.Event()

        async def held_up(keys: Sequence[str], deadline_s: float) -> Rows:
            await free.wait()
            return await sound(keys, deadline_s)

        rows.read = held_up  # type: ignore[method-assign]
        other = asyncio.create_task(reader.read("bob", now=NOW))  # has the one call
        await asyncio.sleep(0.01)
        first = asyncio.create_task(reader.read("ann", now=NOW))
        await asyncio.sleep(0.1)
        joined = asyncio.create_task(reader.read("ann", now=NOW))
        assert (await first).reason == (await other).reason == "timeout"
        free.set()
        assert told(await joined) == (["suv"], "store", None)

    played(play, limits=LIMITS._replace(max_reads=1, deadline_s=0.2))


def test_a_store_that_stops_for_a_moment_is_not_given_up() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.fault = StoreUnavailableError("a moment")
        await asyncio.gather(*[reader.read(f"u{number}", now=NOW) for number in range(6)])
        for number in range(6, 12):
            await reader.read(f"u{number}", now=NOW)
        rows.fault = None
        assert (await reader.read("ann", now=NOW)).reason == "unknown_user"
        assert reader.breaker.state == "closed"

    played(play)


# --- one person, several ids ---------------------------------------------------------------------------------------------


def test_a_browser_that_is_linked_is_answered_from_the_users_row_and_both_are_kept() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held = {"k:browser": linked("k:browser", "k:ann"), "k:ann": row("k:ann", "suv")}
        assert told(await reader.read(None, "browser", now=NOW)) == (["suv"], "store", None)
        assert told(await reader.read("browser", now=NOW)) == (["suv"], "cache", None)
        assert rows.reads == [["k:browser"], ["k:ann"]]
        assert (await reader.read_row("browser")).linked
        assert not (await reader.read_row("ann")).linked

    played(play)


def test_both_reads_have_one_deadline() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held = {"k:browser": linked("k:browser", "k:ann"), "k:ann": row("k:ann", "suv")}
        rows.delay_s = 0.8 * LIMITS.deadline_s
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert told(await reader.read(None, "browser", now=NOW)) == ([], "none", "timeout")
        assert loop.time() - began < 1.5 * LIMITS.deadline_s

    played(play)


def test_a_user_and_their_browser_are_read_in_one_call() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held = {"k:browser": linked("k:browser", "k:ann"), "k:ann": row("k:ann", "suv")}
        assert told(await reader.read("ann", "browser", now=NOW)) == (["suv"], "store", None)
        assert (await reader.read_row("ann", "browser")).linked
        assert rows.reads == [["k:ann", "k:browser"]]

    played(play)


UNHEARD = ProfileRow("k:ann", None, None, opted_out=True)  # nobody has evaluated that yet
ANN, OUT = row("k:ann", "suv"), ProfileRow("k:ann", None, None, emptied="opted_out", opted_out=True)
BROWSER, NOTHING = row("k:browser", "van"), ProfileRow("k:ann", None, None)


@pytest.mark.parametrize(
    ("user", "browser", "names", "reason"),
    [
        (row("k:ann", "suv", opted_out=True), BROWSER, ["suv"], None),  # evaluated since: another id of hers opted in
        (ANN, BROWSER, ["suv"], None),  # the link, if there comes one, is not there yet
        (NOTHING, BROWSER, ["van"], None),  # signed in this second
        (NOTHING, linked("k:browser", "k:bob"), [], "unknown_user"),  # a shared device
        (NOTHING, linked("k:browser", "k:bob")._replace(membership=BROWSER.membership), [], "unknown_user"),
        (NOTHING, linked("k:browser", "k:ann")._replace(membership=BROWSER.membership), ["van"], None),
        (NOTHING._replace(emptied="no_views"), BROWSER, [], "unknown_user"),
        (NOTHING._replace(emptied="opted_out"), BROWSER, [], "opted_out"),
        (OUT, BROWSER, [], "opted_out"),
        (ANN, NOTHING._replace(opted_out=True), [], "opted_out"),
        (ANN, BROWSER._replace(membership=None, emptied="opted_out"), [], "opted_out"),
        (ANN, linked("k:browser", "k:ann", opted_out=True), ["suv"], None),  # her row was evaluated with that
        (ANN, linked("k:browser", "k:bob", opted_out=True), ["suv"], None),
        (NOTHING, NOTHING._replace(opted_out=True), [], "opted_out"),
        (ANN, RowError("row k:browser…"), [], "bad_row"),  # nobody can tell whether that one opted out
        (OUT, RowError("row k:browser…"), [], "opted_out"),
        (RowError("row k:ann…"), BROWSER, [], "bad_row"),
    ],
)
def test_of_a_user_and_a_browser_the_users_row_counts_unless_it_is_not_there_and_the_strictest_wins(
    user: ProfileRow | RowError, browser: ProfileRow | RowError, names: list[str], reason: str | None
) -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held = {"k:ann": user, "k:browser": browser, "k:bob": row("k:bob", "estate")}
        found = await reader.read("ann", "browser", now=NOW)
        assert ([segment.name for segment in found.segments], found.reason) == (names, reason)
        assert rows.reads == [["k:ann", "k:browser"]]

    played(play)


@pytest.mark.parametrize(
    ("browser", "user", "names", "reason"),
    [
        (linked("k:browser", "k:ann", opted_out=True), ANN, ["suv"], None),
        (linked("k:browser", "k:ann", opted_out=True), OUT, [], "opted_out"),
        (linked("k:browser", "k:ann"), OUT, [], "opted_out"),
        (linked("k:browser", "k:ann"), NOTHING, [], "unknown_user"),
        (linked("k:browser", "k:ann")._replace(membership=BROWSER.membership), NOTHING, ["van"], None),
        (linked("k:browser", "k:ann")._replace(membership=BROWSER.membership), UNHEARD, [], "opted_out"),
        (linked("k:browser", "k:ann"), linked("k:ann", "k:bob"), [], "unknown_user"),  # one hop
        (linked("k:browser", "k:ann"), RowError("row k:ann…"), [], "bad_row"),
    ],
)
def test_of_a_browser_that_is_a_users_what_the_users_row_says_counts(
    browser: ProfileRow, user: ProfileRow | RowError, names: list[str], reason: str | None
) -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held = {"k:ann": user, "k:browser": browser, "k:bob": row("k:bob", "estate")}
        found = await reader.read(None, "browser", now=NOW)
        assert ([segment.name for segment in found.segments], found.reason) == (names, reason)

    played(play)


OLD = row("1:ann", "van")


@pytest.mark.parametrize(
    ("held", "names", "reason"),
    [
        ({"1:ann": OLD}, ["van"], None),
        ({"k:ann": ANN, "1:ann": OLD}, ["suv"], None),
        ({"k:ann": ANN, "1:ann": NOTHING._replace(opted_out=True)}, [], "opted_out"),
        ({"k:ann": NOTHING._replace(emptied="no_views"), "1:ann": OLD}, ["van"], None),
        ({"k:ann": NOTHING._replace(emptied="no_views")}, [], "unknown_user"),
        ({"1:ann": linked("1:ann", "1:bob", b"bob"), "k:bob": row("k:bob", "estate")}, ["estate"], None),
        ({"1:ann": linked("1:ann", "1:bob"), "1:bob": row("1:bob", "estate")}, ["estate"], None),  # nobody knows who that is
        ({"k:ann": ANN, "1:ann": RowError("row 1:ann…")}, [], "bad_row"),
    ],
)
def test_under_several_keys_all_names_are_read_at_once_and_an_opt_out_holds_under_any(
    held: dict[str, ProfileRow | RowError], names: list[str], reason: str | None
) -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held = held
        found = await reader.read("ann", now=NOW)
        assert ([segment.name for segment in found.segments], found.reason) == (names, reason)
        assert rows.reads[0] == ["k:ann", "1:ann"]
        count = len(rows.asked)
        reader.forget("ann")
        await reader.read("ann", now=NOW)
        assert rows.asked[count : count + 2] == ["k:ann", "1:ann"]

    played(play, keys=2)


def test_under_several_keys_a_user_and_their_browser_are_still_read_in_one_call() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held = {"1:browser": linked("1:browser", "1:ann", b"ann"), "k:ann": ANN}
        assert (await reader.read_row("ann", "browser")).linked
        assert sorted(rows.asked) == ["1:ann", "1:browser", "k:ann", "k:browser"]

    played(play, keys=2)


def test_under_several_keys_no_name_is_taken_from_the_cache_while_another_is_read() -> None:
    async def play(reader: SegmentReader, rows: PlayedRows) -> None:
        rows.held = {"1:browser": linked("1:browser", "k:bob"), "1:bob": row("1:bob", "van")}
        await reader.read("browser", now=NOW)  # keeps that k:bob isn't there
        rows.held = {"k:bob": row("k:bob", "van")}  # moved
        found = await reader.read("bob", now=NOW)
        assert [segment.name for segment in found.segments] == ["van"]

    played(play, keys=2)
