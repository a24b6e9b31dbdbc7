"""The kernel against the brute-force reference, on every prefix, and the laws of SEMANTICS §3-4.

Drawings: one character a view, oldest first; E matches, o doesn't; views in brackets share an instant.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.profile_row import Membership, Span, ViewCell, view_cell
from schemas.view import pack_attributes
from tests import reference
from tests.reference import DAY_MS, SeenView
from tests.strategies import START, Spec, attributes, rule_specs, rules_of, seen_views, views_of_seen
from transforms import membership
from transforms.kernel import MAX_VIEWS
from transforms.membership import Views, evaluate
from transforms.rows import views_of

ELECTRIC: dict[str, Any] = {"when": {"fuel_type": "electric"}}
HOUR_MS = 3_600_000


def spans_of(found: Membership, rule: int = 0) -> list[Span]:
    return next((segment.spans for segment in found.segments if segment.name == f"r{rule}"), [])


def assert_as_replayed(found: Membership, seen: list[SeenView], specs: Sequence[Spec]) -> None:
    for index, spec in enumerate(specs):
        have = [(span.start, span.until, round(span.score, 8), span.views, span.matching) for span in spans_of(found, index)]
        want = [(start, until, round(score, 8), *counts) for start, until, score, *counts in reference.spans(seen, spec)]
        assert have == want, f"{spec} on {seen}"


def drawn(picture: str, step: int = HOUR_MS) -> list[SeenView]:
    """The views of a drawing, ``step`` ms apart."""
    seen: list[SeenView] = []
    time, together = START, False
    for mark in picture.replace(" ", ""):
        if mark in "[]":
            together = mark == "["
            time += step if mark == "]" else 0
            continue
        seen.append(SeenView(time, f"e{len(seen):04}", {"fuel_type": "electric" if mark == "E" else "diesel"}))
        time += 0 if together else step
    return seen


def member_after(picture: str, **spec: Any) -> bool:
    return bool(spans_of(evaluate(views_of_seen(drawn(picture)), rules_of({**ELECTRIC, **spec}))))


# --- against the reference -----------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(seen_views(max_size=12), st.lists(rule_specs(), min_size=3, max_size=3))
def test_every_prefix_has_the_spans_of_the_reference(seen: list[SeenView], specs: list[Spec]) -> None:
    rules, ordered = rules_of(*specs), reference.distinct(seen)
    for size in range(1, len(ordered) + 1):
        assert_as_replayed(evaluate(views_of_seen(ordered[:size]), rules), ordered[:size], specs)


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.lists(rule_specs(), min_size=3, max_size=3))
def test_longer_windows_have_the_spans_of_the_reference(random: Any, specs: list[Spec]) -> None:
    reach = random.choice([1_000, HOUR_MS, DAY_MS, 12 * DAY_MS])
    seen = [
        SeenView(START + random.randrange(reach), f"e{index}", {"fuel_type": random.choice(["electric", "diesel"]), "price": 10.0})
        for index in range(random.randint(20, 40))
    ]
    seen = reference.distinct(seen)
    assert_as_replayed(evaluate(views_of_seen(seen), rules_of(*specs)), seen, specs)


@pytest.mark.parametrize("half_life", ["1s", "2s", "1h"])
@pytest.mark.parametrize("picture", ["E oEoEo EEooE", "o EEoo EoEo", "E [EEo] [oo] E [Eo] o"])
def test_a_half_life_of_a_second_over_ten_days_neither_overflows_nor_underflows(half_life: str, picture: str) -> None:
    first, *rest = drawn(picture, step=1_000)
    seen = [first, *(view._replace(time=view.time + 10 * DAY_MS - 20_000) for view in rest)]
    specs = [{**ELECTRIC, "half_life": half_life, "enter": 0.6, "exit": 0.25, "min_views": n, "prior_views": 1} for n in (1, 2, 5)]
    assert_as_replayed(evaluate(views_of_seen(seen), rules_of(*specs)), seen, specs)


# --- laws ----------------------------------------------------------------------------------------------------------------


def cells_of(seen: list[SeenView]) -> list[ViewCell]:
    return [view_cell(view.time, view.event_id, pack_attributes(view.attributes)) for view in seen]


def row_after(batches: list[list[ViewCell]]) -> list[ViewCell]:
    """The row's cells, newest first, as a store gives them after these writes."""
    row: dict[bytes, bytes] = {}
    for batch in batches:
        row |= {cell.qualifier: cell.value for cell in batch}
    return [ViewCell(qualifier, value) for qualifier, value in sorted(row.items())]


@given(seen_views(), st.lists(rule_specs(), min_size=2, max_size=2), st.data())
def test_order_copies_and_batches_do_not_matter(seen: list[SeenView], specs: list[Spec], data: st.DataObject) -> None:
    copies = data.draw(st.lists(st.sampled_from(seen), max_size=6))
    shuffled = data.draw(st.permutations(cells_of(seen + copies)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(shuffled)), max_size=4)))
    batches = [shuffled[a:b] for a, b in itertools.pairwise([0, *cuts, len(shuffled)])]
    ordered = reference.distinct(seen)
    assert evaluate(views_of(row_after(batches)), rules_of(*specs)) == evaluate(views_of_seen(ordered), rules_of(*specs))


@given(seen_views(), st.data())
def test_of_copies_that_disagree_the_earliest_counts_in_any_order(seen: list[SeenView], data: st.DataObject) -> None:
    times = st.integers(-3, 3).map(lambda hours: hours * HOUR_MS)
    changes = data.draw(st.lists(st.tuples(st.sampled_from(seen), times, attributes()), min_size=1, max_size=6))
    copies = [view._replace(time=view.time + shift, attributes=kept) for view, shift, kept in changes]
    shuffled = data.draw(st.permutations(cells_of(seen + copies)))
    by_value = sorted(seen + copies, key=lambda view: pack_attributes(view.attributes))
    expected = views_of_seen(reference.distinct(by_value))
    found = views_of(row_after([[cell] for cell in shuffled]))
    assert (found.times.tolist(), found.packed) == (expected.times.tolist(), expected.packed)


@settings(max_examples=60)
@given(seen_views(max_size=9), rule_specs())
def test_the_spans_answer_as_a_replay_does_at_and_around_every_instant(seen: list[SeenView], spec: Spec) -> None:
    ordered = reference.distinct(seen)
    found = evaluate(views_of_seen(ordered), rules_of(spec))
    length = reference.duration(spec["window"])
    as_of = ordered[-1].time
    expiries = {view.time + length for view in ordered}
    boundaries = {as_of, *expiries, *(edge for span in spans_of(found) for edge in (span.start, span.until))}
    for at in sorted({at for boundary in boundaries for at in (boundary - 1, boundary, boundary + 1)}):
        if at >= as_of:
            inside = any(span.start <= at < span.until for span in spans_of(found))
            assert inside == reference.replay(reference.window(ordered, length, at), spec).member, f"at {at}"


@given(seen_views(), st.lists(rule_specs(), min_size=2, max_size=2))
def test_spans_are_ordered_apart_and_end_with_the_window(seen: list[SeenView], specs: list[Spec]) -> None:
    ordered = reference.distinct(seen)
    found = evaluate(views_of_seen(ordered), rules_of(*specs))
    assert found.as_of == ordered[-1].time
    names = [segment.name for segment in found.segments]
    assert names == sorted(set(names))
    for segment in found.segments:
        edges = [edge for span in segment.spans for edge in (span.start, span.until)]
        assert edges == sorted(set(edges)), "touching spans must be one"
        assert edges[0] >= found.as_of
        assert edges[-1] <= found.as_of + reference.duration(specs[int(segment.name[1:])]["window"])
        assert all(0 < span.score <= 1 and 0 <= span.matching <= span.views <= len(ordered) for span in segment.spans)


# --- SEMANTICS §3, drawn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "member"),
    [
        ("E E o E", False),  # four views, one short of min_views
        ("E E o E o", True),  # 3/5 enters
        ("E E o E o o", True),  # 3/6 stays
        ("E E o E o o o", True),  # 3/7 stays
        ("E E o E o o o o", False),  # 3/8 leaves
        ("o E o o o o", False),  # what is left when the first two have expired
    ],
)
def test_the_worked_example(picture: str, member: bool) -> None:
    assert member_after(picture, enter=0.5, exit=0.4, min_views=5) is member


def test_a_member_by_history_leaves_when_the_views_that_let_it_in_expire() -> None:
    # hours   0 1 2 3 4 5 6
    # views   E E o E o o o      a member at 6, by 3/5 at 4; without the first E: E o E o o o, 2/5 at 5 never enters
    seen = drawn("E E o E o o o")
    found = evaluate(views_of_seen(seen), rules_of({**ELECTRIC, "window": "10d"}))
    assert spans_of(found) == [Span(seen[-1].time, START + 10 * DAY_MS, 3 / 7, 7, 3)]


def test_a_user_leaves_and_comes_back_as_views_expire() -> None:
    # hours   0 1 2 3 4 5        4/6 in, 3/5 in, then without both E at the start: 2/4 out; without an o: 2/3 in, 2/2 in, too few
    # views   E E o o E E
    found = evaluate(views_of_seen(drawn("E E o o E E")), rules_of({**ELECTRIC, "min_views": 2, "enter": 0.6, "exit": 0.6}))
    expiry = [START + hour * HOUR_MS + 10 * DAY_MS for hour in range(6)]
    assert spans_of(found) == [Span(found.as_of, expiry[1], 4 / 6, 6, 4), Span(expiry[2], expiry[4], 2 / 3, 3, 2)]


@pytest.mark.parametrize(
    ("picture", "member"),
    [
        ("E E E o o o o o", False),
        ("E E [E o o o o o]", False),  # in after three views, were each looked at alone; together they are 3/8
        ("o [E o o] [o E E]", True),  # judged at 1/4, then 3/7, whatever the order inside
        ("o [E o o] [E E o]", True),
    ],
)
def test_views_of_one_instant_are_judged_together(picture: str, member: bool) -> None:
    assert member_after(picture, min_views=3, enter=3 / 7, exit=3 / 7) is member


@pytest.mark.parametrize(
    ("picture", "spec", "member"),
    [
        ("E E E o o", {"enter": 0.6, "exit": 0.6}, True),  # reaching is enough, and not below exit stays
        ("E E E o o o o o o", {"min_views": 3, "enter": 0.75, "exit": 1 / 3}, True),  # 3/9 stays
        ("E E E o o o o o o o", {"min_views": 3, "enter": 0.75, "exit": 1 / 3}, False),  # 3/10 leaves
        ("E o o", {"min_views": 3, "enter": 0.3333333333, "exit": 0.1}, True),
        ("E o o", {"min_views": 3, "enter": 0.3333333343, "exit": 0.1}, True),  # less than 1e-9 above is equal
        ("E o o", {"min_views": 3, "enter": 0.3333333444, "exit": 0.1}, False),  # 1e-8 above is not
        ("E E E o o o o o o o", {"min_views": 3, "enter": 0.1 + 0.2, "exit": 0.1 + 0.2}, True),  # 0.30000000000000004
        ("E E E o", {"min_views": 4, "enter": 0.8, "exit": 0.1, "prior_views": 1, "prior_share": 1.0}, True),  # (3 + 1) / (4 + 1)
        ("E E E o", {"min_views": 4, "enter": 0.61, "exit": 0.1, "prior_views": 1, "prior_share": 0.0}, False),
    ],
)
def test_a_share_that_equals_a_threshold_reaches_it(picture: str, spec: Spec, member: bool) -> None:
    assert member_after(picture, **spec) is member


def test_a_half_life_weighs_a_view_by_its_age() -> None:
    # hours   0 1     weights with a half life of an hour: 1/2, 1
    # views   o E     p = 1 / 1.5
    (span,) = spans_of(evaluate(views_of_seen(drawn("o E")), rules_of({**ELECTRIC, "half_life": "1h", "min_views": 2})))
    assert span.score == pytest.approx(2 / 3)


def test_matching_views_must_fall_on_min_days_utc_dates() -> None:
    # the last millisecond of a day and the first of the next are two dates; two views of a day are one
    midnight = [SeenView(START - 1, "a", {"fuel_type": "electric"}), SeenView(START, "b", {"fuel_type": "electric"})]
    spec = {**ELECTRIC, "min_views": 2, "min_days": 2}
    assert spans_of(evaluate(views_of_seen(midnight), rules_of(spec)))
    assert not spans_of(evaluate(views_of_seen([view._replace(time=view.time + 1) for view in midnight]), rules_of(spec)))


def test_a_view_counts_from_its_time_until_a_window_later_and_not_at_it() -> None:
    (view,) = drawn("E")
    (span,) = spans_of(evaluate(views_of_seen([view]), rules_of({**ELECTRIC, "min_views": 1, "window": "36h"})))
    assert (span.start, span.until) == (view.time, view.time + 36 * HOUR_MS)
    later = [view, view._replace(time=view.time + 36 * HOUR_MS, event_id="z")]
    (span,) = spans_of(evaluate(views_of_seen(later), rules_of({**ELECTRIC, "min_views": 1, "window": "36h"})))
    assert span.views == 1


# --- the cap -------------------------------------------------------------------------------------------------------------


def test_the_newest_thousand_count_and_the_event_id_decides_at_the_cap() -> None:
    # 1,100 views at 11 instants, 100 each, ids against the order of arrival: 1,000 are kept, all of the first instant go;
    # with 30 more at the end, the 30 smallest ids of the second instant go too, and these are the E
    seen = [
        SeenView(
            START + (i // 100) * HOUR_MS, f"e{i % 100:03}", {"fuel_type": "electric" if i // 100 == 1 and i % 100 < 30 else "lpg"}
        )
        for i in range(1_100)
    ]
    seen = [view._replace(event_id=f"{view.event_id}-{view.time}") for view in seen]
    more = [SeenView(START + 20 * HOUR_MS, f"m{i:03}", {"fuel_type": "lpg"}) for i in range(30)]
    specs = [{**ELECTRIC, "enter": 0.03, "exit": 0.01}, {**ELECTRIC, "enter": 0.03, "exit": 0.01, "half_life": "1h"}]
    for views, matching in ((seen, 30), (seen + more, 0)):
        ordered = reference.distinct(views)
        found = evaluate(views_of(row_after([cells_of(views[::-1])])), rules_of(*specs))
        assert_as_replayed(found, ordered, specs)
        assert [span.matching for span in spans_of(found)[:1]] == ([matching] if matching else [])


def test_a_cap_that_bites_is_felt_by_every_rule() -> None:
    times = np.arange(MAX_VIEWS + 5, dtype=np.int64) + START
    found = evaluate(Views(times, [pack_attributes({"fuel_type": "electric"})] * len(times)), rules_of(ELECTRIC))
    assert spans_of(found) == [Span(int(times[-1]), int(times[-5]) + 10 * DAY_MS, 1.0, MAX_VIEWS, MAX_VIEWS)]


# --- misuse --------------------------------------------------------------------------------------------------------------


def test_no_views_are_an_error() -> None:
    with pytest.raises(ValueError, match="number of views == 0, must be at least 1"):
        evaluate(Views(np.array([], np.int64), []), rules_of(ELECTRIC))


def test_views_out_of_order_are_an_error() -> None:
    with pytest.raises(ValueError, match="views are out of order, must be sorted by event time"):
        evaluate(Views(np.array([START, START - 1]), [pack_attributes({})] * 2), rules_of(ELECTRIC))


def test_warming_up_finds_nothing_and_changes_nothing() -> None:
    membership.warm_up()
    assert not evaluate(views_of_seen(drawn("o")), rules_of(ELECTRIC)).segments
