"""What people ask of their profile is done in the store at once, and as the stream does it when it hears of it."""

from __future__ import annotations

import pytest

from rules import RULES_PATH
from schemas.event import Event
from schemas.identity import Linked, Said
from schemas.profile_row import ProfileRow, linked_cell, sealed_cell, unlinked_cell
from schemas.pseudonym import pseudonymise
from schemas.view import pack_attributes
from serving.controls import Buried, bury_id, keep_consent
from serving.store import Store
from tests.gateways import PSEUDONYMS
from tests.strategies import CATALOGUE, START
from transforms.canary import prepared
from transforms.changes import change_of
from transforms.rules_file import load_release
from transforms.windows import Maintainer

pytestmark = pytest.mark.alone

RULES = prepared(load_release(RULES_PATH, CATALOGUE))
ANN, BROWSER, BOB = map(PSEUDONYMS, ("ann", "browser", "bob"))


def event(kind: str, at: int, user: str | None, anonymous: str | None = None) -> Event:
    packed = pack_attributes({"fuel_type": "electric"})
    return pseudonymise(Event(f"{kind}-{at}", kind, START + at, user, anonymous, None, None, packed, None, False), PSEUDONYMS)


def told(maintainer: Maintainer, *events: Event) -> None:
    maintainer.maintain(RULES, [change for each in events if (change := change_of(each)) is not None])


def person(store: Store, *, linked: bool) -> Maintainer:
    """Ann, with a browser, and Bob; six views of each id."""
    maintainer = Maintainer(store)
    views = [event("listing_view", 10 * place + at, *ids) for place, ids in enumerate(IDS) for at in range(6)]
    told(maintainer, *views, *([event("identify", 50, "ann", "browser")] if linked else []))
    return maintainer


IDS = (("ann", None), (None, "browser"), ("bob", None))


def answers(store: Store) -> dict[str, ProfileRow]:
    return {key: row._replace(link=None) for key, row in store.read_rows([ANN, BROWSER, BOB]).items()}


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("raw", ["ann", "browser"])
def test_a_consent_is_in_force_at_once_as_when_the_stream_has_heard_of_it(store: Store, raw: str, linked: bool) -> None:
    maintainer = person(store, linked=linked)
    key = PSEUDONYMS(raw)
    before = answers(store)
    for kind, at, out in (("opt_out", 100, True), ("opt_in", 200, False)):
        changed = keep_consent(store, key, Said(START + at, out))
        at_once = answers(store)
        told(maintainer, event(kind, at, raw) if raw == "ann" else event(kind, at, None, raw))
        later = answers(store)
        assert at_once[BOB] == later[BOB] == before[BOB]
        assert {each for each in before if at_once[each] != before[each]} <= set(changed) | {key}
        assert at_once[key].opted_out is out
        answering = ANN if linked else key
        assert later[answering].emptied == ("opted_out" if out else "no_views")
        if out or not linked:  # what counts of several profiles is for the stream to tell
            assert at_once == later


def test_a_view_that_counts_after_an_opt_in_is_not_undone(store: Store) -> None:
    maintainer = person(store, linked=False)
    told(maintainer, event("opt_out", 100, "ann"), event("opt_in", 200, "ann"), event("listing_view", 300, "ann"))
    found = store.read_row(ANN)
    assert found.profile is not None
    assert keep_consent(store, ANN, Said(START + 200, opted_out=False)) == [ANN]
    assert store.read_row(ANN) == found


def test_who_is_forgotten_is_answered_nothing_at_once_and_late_copies_stay_out(store: Store) -> None:
    maintainer = person(store, linked=True)
    told(maintainer, event("identify", 60, "bob", "browser"))  # who gets nothing by it
    found = bury_id(store, PSEUDONYMS, "ann", START + 100)
    assert (set(found.keys), found.others) == ({ANN, BROWSER}, {BROWSER: PSEUDONYMS.seal("browser")})
    for key in found.keys:
        assert (store.read_row(key).membership, store.read_windows([key], 9).cells[key]) == (None, [])
    told(maintainer, event("listing_view", 3, "ann"), event("listing_view", 13, None, "browser"))
    assert store.read_windows([ANN, BROWSER], 9).cells == {ANN: [], BROWSER: []}
    told(maintainer, event("forget", 100, "ann"), event("forget", 100, None, "browser"))
    assert list(store.keys()) == [BOB]
    assert store.read_windows([BOB], 9).identities[BOB].linked == ()


def test_a_row_that_claims_to_be_anothers_leads_to_nobody(store: Store) -> None:
    maintainer = person(store, linked=True)
    store.write_identity(
        [(ANN, linked_cell(Linked(BROWSER, PSEUDONYMS.seal("bob")))), (BROWSER, sealed_cell(PSEUDONYMS.seal("bob")))]
    )
    assert set(bury_id(store, PSEUDONYMS, "ann", START + 100).keys) == {ANN, BROWSER}
    told(maintainer, event("forget", 100, "ann"))
    assert len(store.read_windows([BOB], 9).cells[BOB]) == 6


def test_who_was_linked_later_or_by_a_link_that_is_undone_is_not_forgotten_with_a_user(store: Store) -> None:
    maintainer = person(store, linked=False)
    store.write_identity([(BROWSER, unlinked_cell(START + 55))])
    told(maintainer, event("identify", 50, "ann", "browser"), event("identify", 150, "ann", "browser"))
    assert bury_id(store, PSEUDONYMS, "ann", START + 100) == Buried([ANN], {})
    assert len(store.read_windows([BROWSER], 9).cells[BROWSER]) == 6
