"""``forecourt identity``: links with their evidence, and a wrong one undone, also while a stream goes on sending."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.identity import run, short
from rules import RULES_PATH
from schemas.errors import ConfigError
from schemas.event import Event
from schemas.identity import links_void_until
from schemas.instants import DAY_MS, clock_ms, format_instant
from schemas.ledger import UNLINK, entries_in
from schemas.profile_row import ProfileRow
from schemas.pseudonym import Pseudonyms, pseudonymise, ring_of
from schemas.view import pack_attributes
from serving.keys import KEY_VARIABLE
from serving.store import Store, open_store
from tests.gateways import KEY, PSEUDONYMS
from tests.live import wait_until
from tests.strategies import CATALOGUE
from transforms.canary import prepared
from transforms.changes import change_of
from transforms.ledger import read_ledger
from transforms.rules_file import load_release
from transforms.windows import Maintainer

pytestmark = pytest.mark.alone

RULES = prepared(load_release(RULES_PATH, CATALOGUE))
NOW = clock_ms() // DAY_MS * DAY_MS  # the links are of today
ANN, BOB, LAPTOP, PHONE = map(PSEUDONYMS, ("ann", "bob", "laptop", "phone"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def event(kind: str, at: int, user: str | None, anonymous: str | None = None) -> Event:
    packed = pack_attributes({"fuel_type": "electric" if user or anonymous == "laptop" else "diesel"})
    return pseudonymise(Event(f"{kind}-{at}", kind, NOW + at, user, anonymous, None, None, packed, None, False), PSEUDONYMS)


VIEWS = [
    event("listing_view", 10 * place + at, *ids)
    for place, ids in enumerate([("ann", None), ("bob", None), (None, "laptop"), (None, "phone")])
    for at in range(6)
]
LINKS = [
    event("identify", 100, "ann", "laptop"),
    event("lead", 200, "bob", "laptop"),  # a shared device
    event("identify", 300, "ann", "phone"),
    event("search", 400, "ann", "phone"),
]


def told(maintainer: Maintainer, events: Sequence[Event]) -> None:
    maintainer.maintain(RULES, [change for each in events if (change := change_of(each)) is not None])


def answers(store: Store) -> dict[str, ProfileRow]:
    return store.read_rows([ANN, BOB, LAPTOP, PHONE])


def command(capsys: pytest.CaptureFixture[str], store: Store, *words: str) -> Any:
    capsys.readouterr()
    assert run([*words, "--store", store.uri, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_links_are_shown_with_their_evidence_from_both_sides(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    told(Maintainer(store), [*VIEWS, *LINKS, event("opt_out", 500, None, "phone")])
    first = {"user": ANN, "time": format_instant(NOW + 100), "event_id": "identify-100", "event_type": "identify"}
    second = {"user": BOB, "time": format_instant(NOW + 200), "event_id": "lead-200", "event_type": "lead"}
    evidence = [first | {"verdict": "first"}, second | {"verdict": "conflict"}]
    laptop = command(capsys, store, "laptop")
    assert (laptop["pseudonym"], laptop["belongs_to"], laptop["links"], laptop["linked"]) == (LAPTOP, ANN, evidence, [])
    ann, bob = command(capsys, store, "ann"), command(capsys, store, "bob")
    assert (ann["belongs_to"], ann["links"], ann["person_opted_out"], ann["consents"]) == (None, [], True, [])
    found = {linked["anonymous"]: linked for linked in ann["linked"]}
    assert (found[LAPTOP]["links"], found[LAPTOP]["belongs"], found[LAPTOP]["counts"]) == (evidence, True, True)
    assert found[PHONE]["consents"] == [{"time": format_instant(NOW + 500), "opted_out": True}]
    (shared,) = bob["linked"]
    assert (shared["anonymous"], shared["belongs"], shared["belongs_to"], bob["person_opted_out"]) == (LAPTOP, False, ANN, False)


def test_people_see_short_pseudonyms_and_no_other_raw_id(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    told(Maintainer(store), [*VIEWS, *LINKS])
    capsys.readouterr()
    assert run(["ann", "--store", store.uri]) == 0
    said = capsys.readouterr().out
    assert short(LAPTOP) in said
    assert "conflict" in said
    assert LAPTOP[2:] not in said
    assert "laptop" not in said
    nobody = command(capsys, store, "nobody")
    assert (nobody["linked"], nobody["links"], nobody["forgotten"]) == ([], [], None)


@pytest.mark.parametrize("link", ["laptop", LAPTOP, short(LAPTOP)])
def test_a_link_undone_gives_the_views_back_to_whom_they_came_from(
    store: Store, capsys: pytest.CaptureFixture[str], link: str
) -> None:
    maintainer = Maintainer(store)
    told(maintainer, VIEWS)
    alone = answers(store)
    told(maintainer, LINKS[:2])
    assert answers(store)[LAPTOP].emptied == "alias"
    done = command(capsys, store, "unlink", "ann", link)
    assert (done["anonymous"], done["user"], done["refreshed"]) == (LAPTOP, ANN, [LAPTOP, ANN, BOB])
    assert answers(store) == alone
    assert [command(capsys, store, user)["linked"] for user in ("ann", "bob")] == [[], []]
    late = [LINKS[0], event("search", 600, "ann", "laptop")]  # of today
    told(maintainer, late)
    assert answers(store) == alone
    told(maintainer, [event("search", DAY_MS + 1, "ann", "laptop")])  # of tomorrow, by the stream that knew of the link
    assert command(capsys, store, "laptop")["belongs_to"] == ANN
    found = answers(store)[ANN].profile
    assert found is not None
    assert found.views == 12


def test_a_link_is_undone_while_a_stream_goes_on_sending(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    maintainer, sent, stop = Maintainer(store), [*VIEWS], threading.Event()
    told(maintainer, [*VIEWS, *LINKS[:2]])

    def send() -> None:
        while not stop.is_set():
            at = 1_000 + len(sent)
            batch = [event("listing_view", at, None, "laptop"), event("search", at, "ann", "laptop")]
            told(maintainer, batch)
            sent.append(batch[0])

    stream = threading.Thread(target=send)
    stream.start()
    try:
        wait_until(lambda: len(sent) >= len(VIEWS) + 3, 10, "nothing is sent")
        command(capsys, store, "unlink", "ann", "laptop")
        count = len(sent)
        wait_until(lambda: len(sent) >= count + 3, 10, "nothing is sent any more")
    finally:
        stop.set()
        stream.join()
    found = answers(store)
    assert (found[LAPTOP].link, found[LAPTOP].emptied) == (None, None)
    assert (found[LAPTOP].profile, found[ANN].profile) != (None, None)
    assert [row.profile.views for row in (found[LAPTOP], found[ANN]) if row.profile] == [6 + len(sent) - len(VIEWS), 6]


def test_the_ledger_is_told_also_later_but_not_twice(
    sqlite_store_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, archive = open_store(sqlite_store_uri), tmp_path / "archive"
    store.init()
    archive.mkdir()
    told(Maintainer(store), [*VIEWS, *LINKS])
    command(capsys, store, "unlink", "ann", "laptop")
    command(capsys, store, "unlink", "ann", "phone", "--archive", str(archive))
    command(capsys, store, "unlink", "ann", "laptop", "--archive", str(archive))  # which was forgotten the first time
    until = links_void_until(clock_ms())
    entries = {entry.key: entry for entry in entries_in(read_ledger(str(archive)))}
    assert {key: (entry.kind, entry.time) for key, entry in entries.items()} == {each: (UNLINK, until) for each in (LAPTOP, PHONE)}
    assert entries[PHONE].sealed == PSEUDONYMS.seal("phone")
    with pytest.raises(ConfigError, match="it was undone already, all up to "):
        run(["unlink", "ann", "laptop", "--store", store.uri, "--archive", str(archive)])
    assert len(read_ledger(str(archive))) == 2


@pytest.mark.parametrize(
    ("words", "told_that"),
    [
        (["unlink", "nobody", "laptop"], "nothing is known of this one"),
        (["unlink", "ann", "tablet"], "must be an id that is linked to USER"),
        (["unlink", "ann", "0123456789ab"], "must be an id that is linked to USER"),
        (["unlink", "bob", "laptop"], f"its first link is to {short(ANN)}…, USER's came later and moved nothing"),
        (["unlink", "ann"], "number of arguments == 2, must be USER, or unlink USER LINK"),
        (["unlink", "ann", ""], "an id is empty or too long"),
    ],
)
def test_what_cannot_be_undone_is_told_and_changes_nothing(sqlite_store_uri: str, words: list[str], told_that: str) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    told(Maintainer(store), [*VIEWS, *LINKS])
    before = answers(store)
    with pytest.raises(ConfigError) as fault:
        run([*words, "--store", store.uri])
    assert told_that in str(fault.value)
    assert answers(store) == before


def test_an_id_called_unlink_can_be_looked_up(sqlite_store_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    assert command(capsys, store, "unlink")["pseudonym"] == PSEUDONYMS("unlink")


def test_rows_under_an_older_key_are_found_and_unlinked(
    sqlite_store_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    told(Maintainer(store), VIEWS)
    alone = answers(store)
    told(Maintainer(store), LINKS)
    keys = f"2:another key that is long enough\n1:{KEY}"
    monkeypatch.setenv(KEY_VARIABLE, keys)
    new = Pseudonyms(ring_of(keys, "tests"))
    assert {linked["anonymous"] for linked in command(capsys, store, "ann")["linked"]} == {new("laptop"), new("phone")}
    command(capsys, store, "unlink", "ann", "laptop")
    assert command(capsys, store, "laptop")["belongs_to"] is None
    assert store.read_row(new("laptop")).profile == alone[LAPTOP].profile
