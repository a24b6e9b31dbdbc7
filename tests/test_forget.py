"""``forecourt forget``: nothing of a forgotten person is left anywhere, and everything of the others is."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import archive, forget, forgetting, replay, stream, verification
from rules import CATALOGUE_PATH
from schemas.errors import ConfigError, StoreUnavailableError
from schemas.identity import MAX_LINKS, Link, Linked
from schemas.instants import DAY_MS, HOUR_MS, MINUTE_MS, clock_ms, format_instant
from schemas.profile_row import link_cell, linked_cell, sealed_cell, view_cell
from schemas.pseudonym import KeyRing, Pseudonyms, pseudonym_of, ring_of, seal
from schemas.sessions import SCHEMA
from schemas.view import pack_attributes
from serving.keys import KEY_VARIABLE
from serving.store import open_store
from serving.whose import read_rows_of
from tests.forgotten import KEY, RING, event, lines_of, traces_in
from transforms.archive_files import parts_of, read_archive
from transforms.rules_file import load_catalogue
from transforms.stopping import STOPPING

ANNA, HER_PHONE, SHARED = "anna-of-the-tests", "phone-of-anna", "shared-tablet"
BEN = "anna-of-the-tests-2"  # the beginning is hers
NOW = clock_ms()
SOON = NOW + 4 * MINUTE_MS  # newer than any forgetting of these tests

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setenv("FORECOURT_RECEIPT_KEY", "6d" * 32)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    STOPPING.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


def happenings() -> list[dict[str, Any]]:
    """Three days of Anna on her phone and a shared tablet, and of Ben on that tablet and elsewhere."""
    events = []
    for day in range(3):
        at = NOW - day * DAY_MS - HOUR_MS
        events += [
            event(f"anna{day}", at, ANNA, HER_PHONE, experiment={"unit": ANNA, "arm": "b"}),
            event(f"phone{day}", at - 1, None, HER_PHONE),
            event(f"tablet{day}", at - 2, None, SHARED),
            event(f"anna-tablet{day}", at - 3, ANNA, SHARED, event_type="identify"),
            event(f"ben-tablet{day}", at - 4, BEN, SHARED, experiment={"unit": SHARED, "arm": "a"}),
            event(f"ben{day}", at - 5, BEN, "phone-of-ben"),
        ]
    return events


class World:
    """A store, an archive, dead letters and files, with everybody in them."""

    def __init__(self, folder: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.store, self._patch, self._capsys = folder, store, monkeypatch, capsys
        self.archive, self.letters = folder / "archive", folder / "dead.jsonl"
        self.receipt = folder / "receipt.json"
        open_store(store).init()

    def play(self, events: list[dict[str, Any]], *, archived: bool = True) -> None:
        source = self.folder / "source.jsonl"
        source.write_bytes(lines_of(events))
        given = ["--source", f"file:{source}", "--json"]
        assert stream.run([*given, "--store", self.store, "--dead-letters", f"file:{self.letters}"]) == 0
        if archived:
            assert archive.run([*given, "--archive", str(self.archive)]) == 0
        source.unlink()
        self._capsys.readouterr()

    def forget(self, *people: str, status: int = 0, options: tuple[str, ...] = ()) -> dict[str, Any]:
        where = ["--store", self.store, "--archive", str(self.archive), "--dead-letters", f"file:{self.letters}"]
        self._patch.setattr("sys.stdin", iter(f"{each}\n" for each in people))
        given = [*where, *options, "--wait-seconds", "0", "--json", "--receipt", str(self.receipt)]
        assert forget.run(["-", *given]) == status
        out = self._capsys.readouterr()
        assert not [name for name in people if name in out.err], "an id in the log"
        document: dict[str, Any] = json.loads(out.out)
        return document

    def traces(self, *ids: str, ring: KeyRing = RING) -> list[str]:
        return traces_in([self.store, self.folder], ids, ring)

    def archived(self) -> dict[str, dict[str, Any]]:
        rows = read_archive(str(self.archive), load_catalogue(CATALOGUE_PATH)).to_pylist()
        return {row["event_id"]: row for row in rows}

    def views(self, raw_id: str, ring: KeyRing = RING) -> list[str]:
        dump = open_store(self.store).dump(pseudonym_of(ring.current, raw_id))
        return sorted(cell.event_id for cell in dump.views)


@pytest.fixture
def world(tmp_path: Path, sqlite_store_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    return World(tmp_path, sqlite_store_uri, monkeypatch, capsys)


@pytest.fixture
def either(tmp_path: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    return World(tmp_path, store_uri, monkeypatch, capsys)


def test_nothing_is_left_of_her_and_all_of_him(either: World) -> None:
    bad = [event("bad1", NOW, ANNA, event_type="party"), event("bad2", NOW, BEN, SHARED, event_type="party")]
    either.play([*happenings(), *bad])
    assert either.traces(ANNA, HER_PHONE, SHARED)
    document = either.forget(ANNA)
    assert document["clean"]
    assert document["linked_ids"] == 2
    assert document["deleted"]["events"] == 12
    assert document["deleted"]["dead_letters"] == 1
    assert either.traces(ANNA + '"', HER_PHONE, SHARED) == []
    assert either.traces(pseudonym_of(RING.current, ANNA)[2:]) == []
    kept = either.archived()
    assert sorted(kept) == sorted(f"{name}{day}" for day in range(3) for name in ("ben", "ben-tablet"))
    assert json.loads(kept["ben-tablet0"]["experiment"]) == {"unit": None, "arm": "a"}
    assert either.views(BEN) == sorted(kept)
    (letter,) = map(json.loads, either.letters.read_text().splitlines())
    assert letter["payload"]["user_id"] == pseudonym_of(RING.current, BEN)
    assert "anonymous_id" not in letter["payload"]


def test_late_copies_stay_out_and_what_is_newer_begins_anew(either: World) -> None:
    either.play(happenings())
    either.forget(ANNA)
    late = [event("late", NOW - DAY_MS, ANNA, "her-other-phone"), event("later", NOW - DAY_MS, None, "her-other-phone")]
    either.play([*happenings(), *late])
    ids = (HER_PHONE, SHARED, "her-other-phone", pseudonym_of(RING.current, ANNA)[2:])
    assert either.traces(*ids) == []
    either.play([event("new", SOON, ANNA, HER_PHONE), event("new-phone", SOON, None, SHARED)])
    assert either.views(ANNA) == ["new"]
    assert either.views(SHARED) == ["new-phone"]
    assert {"new", "new-phone"} < set(either.archived())
    document = either.forget(BEN)
    assert document["clean"]
    assert either.views(ANNA) == ["new"], "hers isn't his"


def test_what_is_newer_is_told_and_kept(world: World) -> None:
    world.play([*happenings(), event("new", SOON, ANNA), event("bad", SOON, ANNA, event_type="party")])
    document = world.forget(ANNA)
    assert document["clean"]
    assert document["newer"]["events"] == 1
    assert document["newer"]["cells"] >= 2
    assert document["newer"]["dead_letters"] == 1
    assert world.views(ANNA) == ["new"]
    assert "new" in world.archived()


def test_several_are_forgotten_at_once_and_others_stay(world: World) -> None:
    people = [f"somebody-number-{n}" for n in range(20)]
    world.play([event(f"{name}-view", NOW - n * HOUR_MS, name) for n, name in enumerate(people)])
    document = world.forget(*people[::2])
    assert (document["people"], document["deleted"]["events"], document["clean"]) == (10, 10, True)
    assert sorted(world.archived()) == sorted(f"{name}-view" for name in people[1::2])


def test_an_anonymous_id_can_be_forgotten_alone(world: World) -> None:
    world.play(happenings())
    assert world.forget(HER_PHONE)["linked_ids"] == 0
    assert world.traces(HER_PHONE) == []
    assert world.views(ANNA) == ["anna0", "anna1", "anna2"]
    assert world.archived()["anna0"]["anonymous_id"] is None


def test_under_every_key_there_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.play(happenings()[:6])
    both = f"2:another key for tests, as long\n1:{KEY}"
    monkeypatch.setenv(KEY_VARIABLE, both)
    ring = ring_of(both, "tests")
    world.play(happenings()[6:])
    assert world.forget(ANNA)["clean"]
    assert world.traces(HER_PHONE, SHARED, ring=ring) == []
    assert world.traces(*(pseudonym_of(key, ANNA)[2:] for key in ring.keys)) == []
    world.play(happenings())
    assert world.traces(HER_PHONE, SHARED, ring=ring) == []


def test_others_are_evaluated_with_what_lies_under_every_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at = NOW - HOUR_MS
    world.play(
        [event("a1", at, ANNA, SHARED), event("b1", at + 1, BEN, SHARED), event("b2", at + 2, BEN), event("b3", at + 3, BEN)]
    )
    both = f"2:another key for tests, as long\n1:{KEY}"
    monkeypatch.setenv(KEY_VARIABLE, both)
    ring = ring_of(both, "tests")
    newer = pseudonym_of(ring.keys[0], BEN)  # a stream has begun a row under the new key, and hasn't moved the other yet
    open_store(world.store).append([(newer, view_cell(at + 4, "b4", pack_attributes({"fuel_type": "electric"})))])
    open_store(world.store).write_identity([(newer, sealed_cell(seal(ring.keys[0], BEN)))])
    assert world.forget(ANNA)["clean"]
    row = read_rows_of(open_store(world.store), Pseudonyms(ring), [BEN])[BEN]
    assert row.profile is not None
    assert row.profile.views == 4
    assert world.traces(SHARED, ring=ring) == []


def test_a_link_that_only_the_archive_knows_takes_the_phone_along(world: World) -> None:
    old = NOW - 30 * DAY_MS
    events = [event("a", old, ANNA, HER_PHONE), event("b", old + 1, None, HER_PHONE)]
    world.play(events)
    open_store(world.store).forget([pseudonym_of(RING.current, each) for each in (ANNA, HER_PHONE)])
    assert world.forget(ANNA)["linked_ids"] == 1
    assert world.archived() == {}
    world.play([event("c", old + 2, None, HER_PHONE)])
    assert world.views(HER_PHONE) == []


def test_tables_and_lines_are_written_anew_and_what_has_no_rows_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.play(happenings())
    names = [pseudonym_of(RING.current, each) for each in (ANNA, BEN, HER_PHONE)]
    rows = [{"session_id": f"s{n}", "user_id": name, "arm": "control", "segment_count": 1} for n, name in enumerate(names)]
    parquet, text, lines, page = (world.folder / name for name in ("s.parquet", "s.csv", "e.jsonl", "report.html"))
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), parquet)
    with text.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lines.write_bytes(lines_of(happenings()))
    files = ("--sessions", str(parquet), "--sessions", str(text), "--files", str(lines))
    document = world.forget(ANNA, options=files)
    assert document["deleted"]["sessions"] == 4
    assert pq.read_table(parquet)["user_id"].to_pylist() == [names[1]]
    assert pq.read_schema(parquet).equals(SCHEMA)
    assert [row["user_id"] for row in csv.DictReader(text.open())] == [names[1]]
    assert len(lines.read_text().splitlines()) == 6
    assert world.traces(HER_PHONE, SHARED, *(name[2:] for name in (names[0], names[2]))) == []
    page.write_text(f"<p>{names[0]}</p>")
    document = world.forget(ANNA, status=1, options=("--files", str(world.folder)))
    assert document["found"] == {"files": 1}
    assert not document["clean"]
    page.unlink()
    assert world.forget(ANNA)["clean"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("step", ["bury", "follow_links", "erase_rows", "erase_archive", "erase_files", "found_in"])
def test_killed_at_any_step_it_can_be_done_again(world: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    world.play([*happenings(), event("bad", NOW, ANNA, event_type="party")])
    done = getattr(forget, step)

    def killed(*given: Any) -> None:
        done(*given)
        raise StoreUnavailableError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(forget, step, killed)
        with pytest.raises(StoreUnavailableError, match="killed"):
            world.forget(ANNA)
    assert world.forget(ANNA)["clean"]
    assert world.traces(HER_PHONE, SHARED, pseudonym_of(RING.current, ANNA)[2:]) == []


def test_a_writer_that_does_not_know_yet_is_cleaned_up_after(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # forget   bury ─ rows ─ archive ─ search ─┬─ rows ─ archive ─ search
    # writer                              ▶────┘  had not seen the tombstone
    world.play(happenings())
    searched, rounds = verification.found_in, list[Any]()

    def raced(*given: Any) -> Any:
        rounds.append(given)
        if len(rounds) == 1:
            monkeypatch.setattr("transforms.forgetting.Graves.look", lambda *_: False)
            monkeypatch.setattr("transforms.archive_graves.ArchiveGraves.look", lambda *_: False)
            world.play([event("again", NOW - HOUR_MS, ANNA, HER_PHONE)])
            monkeypatch.undo()
            monkeypatch.setenv(KEY_VARIABLE, KEY)
            monkeypatch.setattr(forget, "found_in", raced)
        return searched(*given)

    monkeypatch.setattr(forget, "found_in", raced)
    config = forget.Config((ANNA,), world.store, str(world.archive), wait_seconds=0)
    document = forget.forget(config, lambda _: None)
    assert document["clean"]
    assert len(rounds) == 2
    assert world.traces(HER_PHONE, SHARED, pseudonym_of(RING.current, ANNA)[2:]) == []


def test_others_whose_rows_name_a_forgotten_device_keep_theirs(either: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stream wrote that Ben used the tablet, and was killed before it looked for tombstones. A pointer without a link.
    at = NOW - HOUR_MS
    either.play(
        [event("a1", at, ANNA, SHARED), event("b1", at + 2, BEN), event("b2", at + 3, BEN), event("c1", at + 4, "carla-of-them")]
    )
    tablet, ben, carla = (pseudonym_of(RING.current, each) for each in (SHARED, BEN, "carla-of-them"))
    erased, rounds = forgetting.erase_files, list[Any]()

    def raced(*given: Any) -> None:
        erased(*given)
        rounds.append(given)
        if len(rounds) == 1:
            store = open_store(either.store)
            store.write_identity([(tablet, link_cell(Link(at + 9, "late", ben, "identify", seal(RING.current, BEN))))])
            store.write_identity(
                [(ben, linked_cell(Linked(tablet, seal(RING.current, SHARED)))), (carla, linked_cell(Linked(tablet, b"")))]
            )

    monkeypatch.setattr(forget, "erase_files", raced)
    assert either.forget(ANNA)["clean"]
    assert either.views(BEN) == ["b1", "b2"]
    assert either.views("carla-of-them") == ["c1"]
    assert sorted(either.archived()) == ["b1", "b2", "c1"]
    assert either.traces(SHARED, ANNA + '"') == []


def test_a_phone_whose_row_alone_tells_whose_it_was_goes_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at = NOW - HOUR_MS
    world.play([event("a1", at, ANNA), event("p1", at, None, HER_PHONE)])
    link = Link(at, "x", pseudonym_of(RING.current, ANNA), "identify", b"")
    open_store(world.store).write_identity([(pseudonym_of(RING.current, HER_PHONE), link_cell(link))])
    assert world.forget(ANNA)["clean"]
    assert world.archived() == {}
    assert world.traces(HER_PHONE) == []


def test_a_row_that_claims_to_be_anothers_leads_to_nobody(world: World) -> None:
    world.play([event("a1", NOW - HOUR_MS, ANNA, HER_PHONE), event("b1", NOW - HOUR_MS, BEN)])
    claimed = Linked(pseudonym_of(RING.current, HER_PHONE), seal(RING.current, BEN))
    open_store(world.store).write_identity([(pseudonym_of(RING.current, ANNA), linked_cell(claimed))])
    assert world.forget(ANNA)["clean"]
    assert world.views(BEN) == ["b1"]
    assert sorted(world.archived()) == ["b1"]
    assert world.traces(HER_PHONE, ANNA + '"') == []


def test_bytes_between_the_cells_of_a_sqlite_file_go(world: World) -> None:
    # Pages that SQLite has moved cells about in; its secure_delete overwrites cells, not what is left between them.
    world.play([event(n, NOW - HOUR_MS - n * 1_000, f"kiosk-user-{n:04}", "the-kiosk-99") for n in range(230)])
    document = world.forget("the-kiosk-99")
    assert document["clean"]
    assert world.traces("the-kiosk-99") == []
    assert world.views("kiosk-user-0007") == ["e7"]


def test_files_that_retention_removes_meanwhile_are_no_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.play(happenings())
    gone = str(world.archive / "date=2026-01-01" / "part-gone.parquet")
    for module in (forgetting, verification):
        monkeypatch.setattr(module, "parts_of", lambda archive: [*parts_of(archive), gone])
    assert world.forget(ANNA)["clean"]


def test_of_a_user_of_hundreds_of_browsers_those_go_that_count(world: World) -> None:
    browsers = sorted(
        (pseudonym_of(RING.current, raw), raw) for raw in (f"browser-{number:03}" for number in range(MAX_LINKS + 30))
    )
    at = NOW - 40 * DAY_MS  # longer ago than rows remember
    events = [event(f"own-{raw}", at, None, raw) for _, raw in browsers]
    world.play([*events, *(event(f"with-{raw}", at, "guest-account", raw) for _, raw in browsers)])
    store = open_store(world.store)
    store.forget([pseudonym_of(RING.current, "guest-account"), *(key for key, _ in browsers)])
    assert world.forget("guest-account")["linked_ids"] == MAX_LINKS
    assert sorted(world.archived()) == sorted(f"own-{raw}" for _, raw in browsers[MAX_LINKS:])


def test_unfinished_files_of_killed_writers_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.play(happenings())
    (part, *_) = sorted(world.archive.glob("date=*/*.parquet"))
    leftover = world.archive / "_temporary" / part.name
    leftover.write_bytes(part.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "LEFTOVER_AGE_MS", 10**9)
        assert world.forget(ANNA, status=1)["found"] == {"ledger": 1}
    monkeypatch.setattr(forgetting, "LEFTOVER_AGE_MS", -5_000)
    assert world.forget(ANNA)["clean"]
    assert not leftover.exists()


def test_the_search_finds_every_kind_of_trace(either: World) -> None:
    either.play([*happenings(), event("bad", NOW, ANNA, event_type="party")])
    person = forgetting.Person(Pseudonyms(RING), NOW)
    person.add(ANNA)
    store = open_store(either.store)
    places = forgetting.Places(store, store, str(either.archive), (str(either.letters),), (), ())
    found = verification.found_in(places, person.traces, NOW, lambda _: None)
    own = store.dump(pseudonym_of(RING.current, ANNA))
    links = [cell for name in (HER_PHONE, SHARED) for cell in store.dump(pseudonym_of(RING.current, name)).identity]
    anna = pseudonym_of(RING.current, ANNA).encode()
    naming = [cell for cell in links if cell.qualifier[:1] == b"a" and anna in cell.qualifier]
    assert found.traces["events"] == 6
    assert found.traces["dead_letters"] == 1
    derived = 2  # membership and profile
    assert found.traces["cells"] == len(own.views) + len(own.identity) + derived + len(naming)
    assert found.rows == {pseudonym_of(RING.current, name) for name in (HER_PHONE, SHARED)}
    before_all = forgetting.Person(Pseudonyms(RING), NOW - 10 * DAY_MS)
    before_all.add(ANNA)
    earlier = verification.found_in(places, before_all.traces, before_all.at, lambda _: None)
    assert earlier.traces == {}, "all of it is newer than that"
    assert earlier.newer["events"] == 6


def test_the_receipt_is_signed_and_names_nobody(world: World) -> None:
    world.play(happenings())
    world.forget(ANNA)
    assert forget.run(["--check", str(world.receipt)]) == 0
    assert traces_in([world.receipt], [ANNA, HER_PHONE, SHARED]) == []
    body = json.loads(world.receipt.read_text())["receipt"]
    assert {"at", "code", "deleted", "scanned", "seconds", "people", "clean", "key_id"} <= set(body)
    assert body["scanned"]["events"] == len(world.archived())
    assert {"cells", "store_bytes", "archive_files", "archive_bytes"} <= set(body["scanned"])


def test_replays_leave_dead_letters_of_forgotten_people(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [event("bad1", NOW, ANNA, event_type="party"), event("bad2", NOW, BEN, SHARED, event_type="party")]
    bad += [event("bad3", NOW, None, HER_PHONE, event_type="party"), event("bad4", SOON, ANNA, event_type="party")]
    world.play([*happenings(), *bad])
    before = world.letters.read_bytes()
    world.forget(ANNA)
    world.letters.write_bytes(before)  # a copy that somebody kept
    to = world.folder / "again.jsonl"
    for option, where in (("--store", world.store), ("--archive", str(world.archive))):
        to.unlink(missing_ok=True)
        replay.run(["--dead-letters", f"file:{world.letters}", "--to", f"file:{to}", option, where, "--json"])
        assert json.loads(capsys.readouterr().out) == {"replayed": 2, "left": {"forgotten": 2}}
        again = [json.loads(line) for line in to.read_text().splitlines()]
        assert [each["event_id"] for each in again] == ["bad2", "bad4"]
        assert "sealed_anonymous_id" not in again[0]


def test_short_ids_are_forgotten_and_others_like_them_are_not(world: World) -> None:
    other = event("e5", NOW - 5, "7", "x9", listing_id="5", session_id="5")
    world.play([event("e1", NOW - 1, "5"), event("e2", NOW - 2, "55"), other])
    lines = world.folder / "e.jsonl"
    lines.write_bytes(lines_of([event("f1", NOW, "5"), {**other, "user_id": "55"}, other]) + b'{"unit": "5", "x": 1}\n')
    document = world.forget("5", options=("--files", str(lines)))
    assert document["clean"]
    assert sorted(world.archived()) == ["e2", "e5"]
    kept = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(each["user_id"], each["listing_id"]) for each in kept] == [("55", "5"), ("7", "5")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dead-letters", "pubsub://P/subscriptions/s"], "must be file:PATH"),
        (["--sessions", "/nowhere.csv"], "must be there"),
        (["--wait-seconds", "-1"], "must be 0 or more"),
    ],
)
def test_what_can_not_be_done_is_told(tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        forget.run(["somebody", "--store", f"sqlite:///{tmp_path}/s.db", *options])


def test_a_mistyped_archive_and_a_wrong_key_are_told_and_nobody_is_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.play([event("e1", NOW - HOUR_MS, "ann")])
    where = ["ann", "--store", world.store, "--wait-seconds", "0"]
    with pytest.raises(ConfigError, match="must be a folder that forecourt archive has written"):
        forget.run([*where, "--archive", f"{world.archive}x"])
    monkeypatch.setenv(KEY_VARIABLE, "another key, which nobody wrote with")
    with pytest.raises(ConfigError, match=r"pseudonym key of version 1, must be that of sqlite:"):
        forget.run(where)
    assert open_store(world.store).tombstones() == []


def test_an_id_that_is_none_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="USER: an id is empty or too long, must be 1 to 256 bytes$"):
        forget.run(["x" * 300, "--store", f"sqlite:///{tmp_path}/s.db"])


def test_dead_letters_without_a_time_are_as_old_as_their_refusal(world: World) -> None:
    world.play(happenings())
    letter: dict[str, Any] = {"reason": "bad_time", "field": None, "message": "", "refused_at": format_instant(NOW), "size": 1}
    letter["payload"] = {"event_id": "x", "event_time": "yesterday", "user_id": pseudonym_of(RING.current, ANNA)}
    newer = {**letter, "refused_at": format_instant(SOON)}
    world.letters.write_bytes(lines_of([letter, newer]) + b"half a line with " + pseudonym_of(RING.current, ANNA).encode())
    world.forget(ANNA)
    assert [json.loads(line) for line in world.letters.read_text().splitlines()] == [newer]
