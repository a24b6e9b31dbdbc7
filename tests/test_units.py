"""Screening against a loop over rows: copies, units in both arms, and what is counted of them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from experiments.sessions import Sessions
from experiments.units import distinct, screened
from schemas.experiments import Unit
from tests.made_sessions import table, tables

UNITS: tuple[Unit, ...] = ("session", "user")


def row_by_row(sessions: Sessions, unit: Unit) -> tuple[Any, ...]:
    """The vehicles of the rows that stay, and the counts."""
    seen: set[tuple[int, int]] = set()
    rows = []
    for place, key in enumerate(zip(sessions.session.tolist(), sessions.arm.tolist(), strict=True)):
        if key not in seen:
            seen.add(key)
            rows.append(place)
    arms = defaultdict(set)
    codes = (sessions.user if unit == "user" else sessions.session).tolist()
    for place in rows:
        arms[codes[place]].add(int(sessions.arm[place]))
    both = {code for code, of_code in arms.items() if len(of_code) == 2}
    gone = {int(sessions.session[place]) for place in rows if codes[place] in both}
    kept = [place for place in rows if codes[place] not in both]
    of_user = [(int(sessions.user[place]), int(sessions.arm[place])) for place in rows]
    users = sum({(user, 0), (user, 1)} <= set(of_user) for user in {user for user, _ in of_user})
    share = len(both) / len(arms) if arms else 0.0
    return sessions.vehicles[kept].tolist(), len(arms), len(both), len(gone), sessions.rows - len(rows), share, users


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=30)
@given(sessions=tables())
def test_it_equals_going_row_by_row(unit: Unit, sessions: Sessions) -> None:
    found = screened(sessions, unit)
    assert (found.sessions.vehicles.tolist(), *found[1:]) == row_by_row(sessions, unit)


@settings(max_examples=30)
@given(tables())
def test_what_was_screened_has_nothing_left_to_screen(sessions: Sessions) -> None:
    for unit in UNITS:
        kept = screened(sessions, unit).sessions
        again = screened(kept, unit)
        assert again.sessions.vehicles.tolist() == kept.vehicles.tolist()
        assert (again.units_in_both_arms, again.dropped_sessions, again.copies, again.share, again.mixed) == (0, 0, 0, 0, False)


def test_the_first_row_of_a_session_and_arm_counts() -> None:
    sessions = table([0, 0, 1, 0], [0, 0, 1, 0], [3, 9, 5, 9], session=[4, 4, 2, 4])
    found = screened(sessions, "session")
    assert found.sessions.vehicles.tolist() == [3, 5]
    assert (found.units, found.copies, found.units_in_both_arms) == (2, 2, 0)


def test_a_session_in_both_arms_is_dropped_with_all_its_rows() -> None:
    sessions = table([0, 1, 1, 0], [0, 0, 1, 2], [1, 2, 3, 4], session=[0, 0, 1, 2])
    found = screened(sessions, "session")
    assert found.sessions.vehicles.tolist() == [3, 4]
    assert (found.units, found.units_in_both_arms, found.dropped_sessions, found.copies) == (3, 1, 1, 0)
    assert found.mixed


def test_a_user_in_both_arms_is_dropped_only_where_users_were_assigned() -> None:
    sessions = table([0, 1, 1, 0], [0, 0, 1, 2], [1, 2, 3, 4])
    by_session = screened(sessions, "session")
    assert (by_session.sessions.rows, by_session.users_in_both_arms) == (4, 1)
    found = screened(sessions, "user")
    assert found.sessions.vehicles.tolist() == [3, 4]
    assert (found.units, found.units_in_both_arms, found.dropped_sessions) == (3, 1, 2)


@pytest.mark.parametrize(("both", "mixed"), [(10, False), (11, True)])
def test_over_one_percent_is_too_many(both: int, mixed: bool) -> None:
    session = [*range(1_000), *range(both)]
    found = screened(table([0] * 1_000 + [1] * both, session, session, session=session), "session")
    assert (found.share, found.mixed) == (both / 1_000, mixed)


def test_small_kinds_of_numbers_do_not_overflow() -> None:
    sessions = table([1] * 100, range(100), range(100))
    small = sessions._replace(session=np.arange(100).astype(np.int32), user=np.arange(100).astype(np.int32))
    assert screened(small, "user").units == 100
    assert distinct(small.session) == 100
