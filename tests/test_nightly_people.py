"""The night of people: with visitors who sign in, opt out and are forgotten, batch and stream write the same rows."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipelines import archive, simulate
from schemas.errors import StoreUnavailableError
from schemas.identity import Link, Linked, Said, tombstone_of
from schemas.instants import DAY_MS, clock_ms, format_instant, parse_date
from schemas.ledger import Entry, entry_of_tombstone
from schemas.profile_row import (
    IdentityCell,
    ProfileRow,
    cells_of,
    consent_cell,
    decode_base,
    encode_base,
    identity_of,
    link_cell,
    linked_cell,
    view_cell,
)
from schemas.pseudonym import Pseudonyms, ring_of
from schemas.release import Release
from schemas.rules import parse_rules
from schemas.view import pack_attributes
from serving.keys import KEY_VARIABLE
from serving.store import Store, open_store
from tests.reference_day import day_of, rates_of, views_of_people, whose_ids
from tests.strategies import CATALOGUE
from tests.test_nightly import DATE, KEY, RULES, TODAY, Place, archived, night, streamed, written
from transforms.canary import prepared
from transforms.forgetting import Graves
from transforms.ledger import change_ledger, with_entries
from transforms.publishing import publish_rows
from transforms.rows import refresh_rows
from transforms.staged import Staged, lacking_cells, staged_in, table_of

PSEUDONYMS = Pseudonyms(ring_of(KEY, "tests"))
END = TODAY


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def said_at_random(events: list[dict[str, Any]], number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Sign-ins on shared devices, consents either way, and some who are to be forgotten."""
    draw = random.Random(seed)
    users, devices = (sorted({each[name] for each in events if each.get(name)}) for name in ("user_id", "anonymous_id"))
    for place in range(number):
        kind = draw.choice(["opt_out", "opt_out", "opt_in", "identify", "identify", "lead", "lead"])
        either = draw.choice([{"user_id": draw.choice(users)}, {"anonymous_id": draw.choice(devices)}])
        both = {"user_id": draw.choice(users), "anonymous_id": draw.choice(devices)}
        at = format_instant(TODAY - 20 * DAY_MS + draw.randrange(20 * DAY_MS))
        yield {
            "event_id": f"said-{place}",
            "event_type": kind,
            "event_time": at,
            **(both if kind in ("identify", "lead") else either),
        }


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Twenty days of visitors, many of whom sign in or share a device, some of whom opt out, three of whom are to be forgotten."""
    folder = tmp_path_factory.mktemp("lived")
    sizes = ["--events", "5000", "--users", "150", "--days", "20", "--seed", "4", "--anonymous", "0.6"]
    assert simulate.run([*sizes, "--until", format_instant(TODAY), "--to", f"file:{folder}/events.jsonl", "--json"]) == 0
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    events += said_at_random(events, 120, 1)
    for number, each in enumerate(random.Random(2).sample([each for each in events if each.get("user_id")], 3)):
        forget = {"event_id": f"forget-{number}", "event_type": "forget", "user_id": each["user_id"]}
        events.append({**forget, "event_time": format_instant(TODAY - (4 + number) * DAY_MS)})
    random.Random(3).shuffle(events)
    place = Place(folder, events)
    archived(place, events)
    place.rules.write_text(yaml.safe_dump(RULES))
    return place


@pytest.fixture
def place(lived: Place, tmp_path: Path) -> Place:
    shutil.copytree(lived.archive, tmp_path / "archive")
    shutil.copy(lived.rules, tmp_path / "rules.yaml")
    return Place(tmp_path, lived.events)


def people_night(capfd: pytest.CaptureFixture[str], place: Place, *more: str) -> dict[str, Any]:
    told = night(capfd, place.options("--override", "people of all sorts", *more))
    assert told.status == 0, told
    return told.document


def everything_in(store: Store) -> dict[str, ProfileRow]:
    rows = store.read_rows(list(store.keys()))
    return {key: row for key, row in rows.items() if row.membership is not None or row.emptied is not None}


def seen_of_late(rows: dict[str, ProfileRow]) -> dict[str, ProfileRow]:
    """Those of people with a view in the window, and of all who have opted out: what a night publishes."""
    late = {key for key, row in rows.items() if row.membership is not None and row.membership.as_of > END - 10 * DAY_MS}
    late |= {key for key, row in rows.items() if row.emptied == "opted_out"}
    return {key: row for key, row in rows.items() if key in late or (row.link is not None and row.link.other in late)}


def test_every_number_is_the_references_by_person(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    document = people_night(capfd, place)
    views = views_of_people(place.events, END)
    table = pq.read_table(place.metrics / f"date={DATE}" / "segments.parquet", partitioning=None).to_pylist()
    for rule, row in zip(RULES["segments"], table, strict=True):
        counts = day_of(views, {**RULES["defaults"], **rule}, parse_date(DATE))
        expected = {**counts._asdict(), **rates_of(counts)._asdict()}
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-12), rule["name"]
    whose = whose_ids(place.events, END)
    people = pq.read_table(place.metrics / f"date={DATE}" / "people.parquet", partitioning=None).to_pylist()
    assert people == [{"date": DATE, **document["people"]}]
    assert document["people"]["links"] == sum(key != person for key, person in whose.items()) > 20
    assert document["people"]["conflicts"] > 5
    assert document["people"]["opted_out"] > 5


def test_stream_and_night_agree_on_everybody(place: Place, store_uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    store = streamed(place, store_uri, place.events)
    by_stream = everything_in(store)
    first = people_night(capfd, place, "--store", store_uri)
    assert set(first["parity"]) == {"agree"}
    assert first["parity"]["agree"] == first["published"] + first["people"]["opted_out"]
    assert everything_in(store) == by_stream, "publishing what is right changes nothing"
    again = people_night(capfd, place, "--store", store_uri)
    assert again["parity"] == first["parity"]
    other = open_store(store_uri + "-rebuilt")
    other.init()
    assert set(people_night(capfd, place, "--store", other.uri)["parity"]) == {"missing_row"}
    assert people_night(capfd, place, "--store", other.uri)["parity"] == first["parity"]
    rebuilt, late = everything_in(other), seen_of_late(by_stream)
    assert len(late) > 50
    assert {key: rebuilt[key] for key in late} == late
    for each in (store, other):
        each.close()


def test_while_keys_are_rotated_stream_and_night_agree(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(place.archive)
    uri, old, new = f"sqlite:///{tmp_path}/profiles.db", "1:" + "o" * 32, "2:" + "n" * 32
    events = [each for each in place.events if each["event_type"] != "forget"]
    for number, keys in enumerate((old, f"{new}\n{old}")):
        monkeypatch.setenv(KEY_VARIABLE, keys)
        some = events[number::2]
        source = written(tmp_path / "part.jsonl", some)
        assert archive.run(["--source", source, "--archive", str(place.archive)]) == 0
        streamed(place, uri, some).close()
    document = people_night(capfd, place, "--store", uri)
    assert set(document["parity"]) == {"agree"}
    assert document["people"]["links"] == sum(key != person for key, person in whose_ids(events, END).items())
    rebuilt = f"sqlite:///{tmp_path}/rebuilt.db"
    store = open_store(rebuilt)
    store.init()
    people_night(capfd, place, "--store", rebuilt)
    assert people_night(capfd, place, "--store", rebuilt)["parity"] == document["parity"]
    assert {key.partition(":")[0] for key in store.keys()} == {"2"}
    store.close()


@pytest.fixture
def kept(place: Place, tmp_path: Path) -> Iterator[Store]:
    store = streamed(place, f"sqlite:///{tmp_path}/profiles.db", place.events)
    yield store
    store.close()


def identity_cells(store: Store, kind: bytes) -> list[tuple[str, IdentityCell]]:
    rows = store.read_windows(list(store.keys()), 1).identities
    return [(key, cell) for key, identity in rows.items() for cell in cells_of(identity) if cell.qualifier[:1] == kind]


@pytest.mark.parametrize("kind", [b"a", b"c"], ids=["links", "consents"])
def test_what_a_store_has_lost_is_told_and_healed(
    place: Place, kept: Store, capfd: pytest.CaptureFixture[str], kind: bytes
) -> None:
    before = everything_in(kept)
    lost = identity_cells(kept, kind)
    kept.delete_identity([(key, cell.qualifier) for key, cell in lost])
    rules = prepared(Release(parse_rules(place.rules.read_bytes(), CATALOGUE, "rules"), None))
    refresh_rows(kept, rules, list(kept.keys()), relinked=[key for key, _ in lost] if kind != b"c" else [])
    told = people_night(capfd, place, "--store", kept.uri)
    assert told["parity"]["identity"] > 3
    assert set(told["parity"]) <= {"agree", "identity", "late_event"}
    again = people_night(capfd, place, "--store", kept.uri)
    assert set(again["parity"]) == {"agree"}
    after, late = everything_in(kept), seen_of_late(before)
    assert len(late) > 50
    assert {key: after[key] for key in late} == late


def test_views_of_who_has_opted_out_go_from_rows(place: Place, kept: Store, capfd: pytest.CaptureFixture[str]) -> None:
    whose = whose_ids(place.events, END)
    out = {key for key, row in everything_in(kept).items() if row.emptied == "opted_out"}
    theirs = [PSEUDONYMS(raw) for raw, person in whose.items() if PSEUDONYMS(person) in out]
    assert any(kept.read_windows(theirs, 1).cells.values()), "views that came later are void, and there"
    document = people_night(capfd, place, "--store", kept.uri)
    assert len(out) == document["people"]["opted_out"]
    assert not any(kept.read_windows(theirs, 1).cells.values())
    bases = [kept.dump(key).base for key in theirs]
    assert bases == [None] * len(theirs)


def test_links_that_were_undone_are_undone_in_batch_too(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    whose = whose_ids(place.events, END)
    devices = [key for key, person in whose.items() if key != person]
    change_ledger(
        str(place.archive), lambda ledger: with_entries(ledger, [Entry("unlink", PSEUDONYMS(key), END) for key in devices])
    )
    document = people_night(capfd, place)
    views = views_of_people(place.events, END, unlinked=dict.fromkeys(devices, END))
    counts = day_of(views, {**RULES["defaults"], **RULES["segments"][0]}, parse_date(DATE))
    assert document["people"]["links"] == 0
    assert {name: document["segments"][0][name] for name in ("tp", "fp", "fn", "tn")} == dict(
        zip(("tp", "fp", "fn", "tn"), counts[:4], strict=True)
    )


def test_who_is_forgotten_by_the_ledger_counts_nowhere(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    before = people_night(capfd, place)["events"]
    users = sorted({each["user_id"] for each in place.events if each.get("user_id") and each["event_time"].startswith(DATE)})[:20]
    graves = [entry_of_tombstone(tombstone_of(PSEUDONYMS(key), END)) for key in users]
    change_ledger(str(place.archive), lambda ledger: with_entries(ledger, graves))
    document = people_night(capfd, place)
    views = views_of_people(place.events, END, forgotten=dict.fromkeys(users, END))
    counts = day_of(views, {**RULES["defaults"], **RULES["segments"][0]}, parse_date(DATE))
    assert document["events"] < before
    assert [document["segments"][0][name] for name in ("tp", "fp", "fn", "tn")] == list(counts[:4])
    assert "duplicates" not in {finding["subject"] for finding in document["verdict"]["failed"]}


def test_who_was_forgotten_after_the_rows_were_staged_does_not_come_back(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/profiles.db")
    store.init()
    user, device = PSEUDONYMS("ann"), PSEUDONYMS("phone")
    said = identity_of([])
    rules = prepared(Release(parse_rules(yaml.safe_dump(RULES).encode(), CATALOGUE, "rules"), None))
    views = [view_cell(time, f"e{time}", pack_attributes({})) for time in (5, 15)]
    cells = cells_of(said._replace(sealed=b"sealed"))
    staged = Staged(user, [(user, encode_base(views)), (device, encode_base(views[:1]))], [(user, cell) for cell in cells], [])
    assert list(staged_in(table_of([staged]))) == [staged]
    store.bury([tombstone_of(user, 10), tombstone_of(device, 10)])
    assert publish_rows(store, rules, [staged], 20, Graves()) == {}
    base = store.dump(user).base
    assert base is not None
    assert [cell.time for cell in decode_base(base[1])] == [15]
    assert store.dump(device).base is None
    assert store.dump(user).identity == []
    store.close()


def test_what_a_try_that_failed_has_left_of_whom_was_forgotten_meanwhile_goes(
    store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # first try   look ── write ───────────────── look ── clear (fails)      the news is used up,
    # forget              └ bury, clear ┘                                     when it is tried again
    store, now = open_store(store_uri), clock_ms()
    store.init()
    user, rules = PSEUDONYMS("ann"), prepared(Release(parse_rules(yaml.safe_dump(RULES).encode(), CATALOGUE, "rules"), None))
    page, graves = [Staged(user, [(user, encode_base([view_cell(now - 5, "e5", pack_attributes({}))]))], [], [])], Graves()
    write = store.write_bases

    def write_later(*given: Any) -> Any:
        store.bury([tombstone_of(user, now)])
        return write(*given)

    def fail(*_: Any, **__: Any) -> None:
        msg = "away"
        raise StoreUnavailableError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_bases", write_later)
        patch.setattr("transforms.publishing.clear_rows", fail)
        with pytest.raises(StoreUnavailableError):
            publish_rows(store, rules, page, now, graves)
    assert store.dump(user).base is not None
    for by in (graves, Graves()):  # tried again by the same process, or by another, as the first was killed
        write([*page[0].bases], now)
        assert publish_rows(store, rules, page, now, by) == {}
        assert list(store.keys()) == []
    store.close()


def test_a_cell_is_lacking_only_when_it_would_say_something() -> None:
    early, late, next_day = (Link(time, f"e{time}", "u", "lead", b"") for time in (5, 6, DAY_MS + 1))
    stored = identity_of([link_cell(early)])
    assert lacking_cells(stored, [link_cell(late), link_cell(next_day)]) == [link_cell(next_day)]
    assert lacking_cells(identity_of([link_cell(late)]), [link_cell(early)]) == [link_cell(early)]
    assert lacking_cells(stored._replace(unlinked=DAY_MS - 1), [link_cell(early)]) == []
    ins, outs = ([consent_cell(Said(time, opted_out=out)) for time in (5, 8, 11)] for out in (False, True))
    assert lacking_cells(identity_of(outs[1:2]), [*ins, outs[0]]) == ins[2:], "what an opt-out has made idle isn't written anew"
    assert lacking_cells(identity_of([linked_cell(Linked("a", b""))]), [linked_cell(Linked("a", b"sealed"))]) == []
