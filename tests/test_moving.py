"""Rows moved to another key's names: nothing lost or seen twice, whoever writes meanwhile, however often it is begun."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules import CATALOGUE_PATH
from schemas.event import Event
from schemas.identity import Said
from schemas.instants import DAY_MS, HOUR_MS, clock_ms
from schemas.profile_row import consent_cell, encode_base, view_cell
from schemas.pseudonym import Pseudonyms, pseudonym_of, pseudonymise, ring_of, seal, version_of
from schemas.release import Release
from schemas.rules import parse_rules
from schemas.view import pack_attributes
from serving.store import Store, open_store
from tests.traffic import RULES
from transforms.canary import Prepared, prepared
from transforms.changes import change_of
from transforms.forgetting import Graves
from transforms.moving import RowsMoved, move_rows, rotate_rows
from transforms.names import OneRowEach
from transforms.rules_file import load_catalogue
from transforms.windows import Maintainer

OLD: Final = "1:the first key of the tests"
NEW: Final = "2:another key of the tests"
ONLY_OLD, OLD_FIRST, NEW_FIRST, ONLY_NEW = (
    Pseudonyms(ring_of(text, "tests")) for text in (OLD, f"{OLD}\n{NEW}", f"{NEW}\n{OLD}", NEW)
)
CATALOGUE: Final = load_catalogue(CATALOGUE_PATH)
PREPARED: Final[Prepared] = prepared(Release(parse_rules(RULES.encode(), CATALOGUE, "tests"), None))
NOW: Final = clock_ms() // HOUR_MS * HOUR_MS


@pytest.fixture
def store(store_uri: str) -> Iterator[Store]:
    store = open_store(store_uri)
    store.init()
    yield store
    store.close()


def event_of(number: int, kind: str = "listing_view", user: str | None = "ann", browser: str | None = None, hours: int = 1) -> Event:
    packed = pack_attributes({"fuel_type": "electric" if number % 3 else "diesel", "price": 1000.0 * number})
    return Event(f"e{number}", kind, NOW - hours * HOUR_MS + number, user, browser, None, None, packed, None, False)


def streamed(store: Store, pseudonyms: Pseudonyms, events: Sequence[Event]) -> None:
    maintainer = Maintainer(store, pseudonyms)
    maintainer.maintain(PREPARED, [change for event in events if (change := change_of(pseudonymise(event, pseudonyms)))])


def contents(store: Store) -> dict[str, Any]:
    """All that rows hold, by key, without what depends on when it was read."""
    keys = list(store.keys())
    rows = store.read_rows(keys)
    dumps = store.dumps(keys)
    return {
        key: (dumps[key].views, sorted(cell[:2] for cell in dumps[key].identity), rows[key].membership, rows[key].emptied)
        for key in keys
    }


def versions(store: Store) -> set[int]:
    """The key versions of all names in a store, those inside link cells too."""
    found = {version_of(key) for key in store.keys()}
    for dump in store.dumps(list(store.keys())).values():
        for cell in dump.identity:
            found |= {version for version in (1, 2) if f"{version}:".encode() in cell.qualifier}
    return found
