"""Of what a night has staged nothing comes back of whom was forgotten meanwhile."""

from __future__ import annotations

from schemas.identity import Said, Tombstone, digest_of
from schemas.instants import DAY_MS
from schemas.profile_row import ViewCell, consent_cell, encode_base, unlinked_cell, view_cell
from schemas.view import pack_attributes
from transforms.forgetting import Graves
from transforms.staged import Staged, without_forgotten

KEY = "1:" + "a" * 64


def view(time: int) -> ViewCell:
    return view_cell(time, f"e{time}", pack_attributes({}))


def graves_of(key: str, time: int) -> Graves:
    class Store:
        names = staticmethod(lambda key: (key,))
        burials = staticmethod(lambda: 1)
        tombstones = staticmethod(lambda since: [Tombstone(digest_of(key), 1, time)])

    graves = Graves()
    graves.look(Store())  # type: ignore[arg-type]
    return graves


def test_what_is_newer_than_the_forgetting_stays() -> None:
    cells = [(KEY, consent_cell(Said(time, opted_out=True))) for time in (10, 11)]
    staged = Staged(KEY, [(KEY, encode_base([view(11), view(10)]))], cells, [])
    left = without_forgotten(staged, graves_of(KEY, 10))
    assert left == Staged(KEY, [(KEY, encode_base([view(11)]))], cells[1:], [])


def test_an_unlinking_of_the_date_of_the_forgetting_goes_though_it_is_of_the_end_of_that_date() -> None:
    cells = [(KEY, unlinked_cell(time)) for time in (DAY_MS - 1, 2 * DAY_MS - 1)]
    assert without_forgotten(Staged(KEY, [], cells, []), graves_of(KEY, 10)).cells == cells[1:]
