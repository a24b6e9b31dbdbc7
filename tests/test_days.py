"""Days as the kernel walks them, held against the brute-force reference; whole days in a row, users by the dozen."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.view import pack_attributes
from tests.reference import DAY_MS, SeenView, distinct
from tests.reference_day import DayCounts, day_of
from tests.strategies import START, Spec, rule_specs, rules_of, seen_views
from transforms.kernel import INSIDE_AT_END, INSIDE_AT_START, days_of

Users = list[list[SeenView]]


def walked(users: Users, specs: list[Spec], start: int, days: int) -> tuple[list[list[DayCounts]], list[list[int]]]:
    """What the kernel counts, by day and rule, and the courses, by user and rule."""
    rules = rules_of(*specs)
    sorted_users = [distinct(views) for views in users]
    views = [view for each in sorted_users for view in each]
    times = np.array([view.time for view in views], np.int64)
    bits = rules.matches.bits_of([pack_attributes(view.attributes) for view in views])
    offsets = np.cumsum([0, *map(len, sorted_users)])
    counts, courses = days_of(times, bits, offsets, start, days, *rules.arrays)
    return [[DayCounts(*row) for row in day] for day in counts.tolist()], courses.tolist()


def course_of(views: list[SeenView], spec: Spec, start: int, days: int) -> int:
    """One user's course: what the first and the last day count of them."""
    first, last = (day_of({"user": distinct(views)}, spec, day) for day in (start, start + (days - 1) * DAY_MS))
    was_inside = first.left or (first.members and not first.entered)
    return INSIDE_AT_START * bool(was_inside) + INSIDE_AT_END * last.members


def expected(users: Users, specs: list[Spec], start: int, days: int) -> list[list[DayCounts]]:
    by_user = {str(number): distinct(views) for number, views in enumerate(users)}
    return [[day_of(by_user, spec, start + day * DAY_MS) for spec in specs] for day in range(days)]


@settings(max_examples=300, deadline=None)
@given(
    users=st.lists(seen_views(), min_size=1, max_size=4),
    specs=st.lists(rule_specs(), min_size=1, max_size=4),
    first=st.integers(-1, 12),
    days=st.integers(1, 3),
)
def test_every_count_of_every_day_is_the_references(users: Users, specs: list[Spec], first: int, days: int) -> None:
    start = START + first * DAY_MS
    counts, courses = walked(users, specs, start, days)
    assert counts == expected(users, specs, start, days)
    assert courses == [[course_of(views, spec, start, days) for spec in specs] for views in users]


def test_only_the_newest_thousand_views_count_on_a_heavy_users_day() -> None:
    # 700 electric the day before, then 800 diesel, several an instant: the cap, not the window, pushes the electric ones out
    first = [SeenView(START + i // 3 * 60_000, f"a{i:04}", {"fuel_type": "electric"}) for i in range(700)]
    then = [SeenView(START + DAY_MS + i // 3 * 60_000, f"b{i:04}", {"fuel_type": "diesel"}) for i in range(800)]
    specs: list[Spec] = [{"when": {"fuel_type": "electric"}, "enter": 0.5, "exit": 0.3}, {"when": {"fuel_type": "diesel"}}]
    users = [first + then]
    found, _ = walked(users, specs, START, 2)
    assert found == expected(users, specs, START, 2)
    assert found[1][0].left == 1
