"""Segment membership (SEMANTICS §3-4): views and rules in, spans of membership out. The one kernel; no Beam, no I/O.

How a whole schedule of spans costs O(n log n) in the n views of a window, not O(n²):

- Without further views the window only loses its oldest views, so each instant's window is a suffix ``j..n``. With
  views of one instant taken together as a group, there are at most n suffixes, and each is one replay.
- In the replay of suffix ``j`` the share after group ``k`` reaches a threshold ``e`` exactly when
  ``A(k) + c(s - e)w(k) >= A(j-1)``, where ``A(k) = Σ_{i<=k} w(i)(x(i) - e)``, ``x`` says whether a view matches, ``w`` is
  its weight, ``c`` and ``s`` are the prior's views and share. Left of the sign stands only ``k``, right only ``j``.
- A member is who entered last after leaving last. The last ``k`` at which the left side reaches a bound is found by binary
  search in its suffix maxima (leaving: suffix minima). Enough views and days, once reached, stay reached, so it is enough
  to check them at the last entering ``k``.
- Mostly not even that: at ``p >= enter`` a suffix that has its views and days is in, at ``p < exit`` it is out; only
  between the thresholds does history decide.

With a half life the weights span thousands of powers of two, so ``A`` is kept scaled by its newest weight, and compared
by sign and logarithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from schemas.instants import DAY_MS
from schemas.profile_row import Membership, SegmentSpans, Span
from schemas.rules import RuleSet
from transforms.conditions import MatchTable

MAX_VIEWS: Final = 1_000
TOLERANCE: Final = 1e-9  # differences of shares below this are equality

_START, _UNTIL, _VIEWS, _MATCHING = range(4)
_LOG_OFFSET = 1_100.0  # above -log2 of the smallest positive double, so that a logarithm plus this is positive


class Views(NamedTuple):
    """A user's views in order of (event time, event id): ``times`` int64 ms UTC, ``packed`` their packed attributes."""

    times: NDArray[np.int64]
    packed: Sequence[bytes]


class Rules:
    """A rule set made ready for ``evaluate``: thresholds as arrays, conditions as a table of matches."""

    def __init__(self, rule_set: RuleSet) -> None:
        rules = rule_set.rules
        self.version = rule_set.version
        self.names = [rule.name for rule in rules]
        self.matches = MatchTable([rule.when for rule in rules])
        self.windows = np.array([rule.window for rule in rules], np.int64)
        self.minima = np.array([(rule.min_views, rule.min_days) for rule in rules], np.int64)
        self.shares = np.array(
            [(r.enter - TOLERANCE, r.exit - TOLERANCE, r.half_life or 0.0, r.prior_views, r.prior_share) for r in rules], np.float64
        )


def evaluate(views: Views, rules: Rules) -> Membership:
    """Membership from the newest view's event time on, as spans; ``views`` is not empty, its newest 1,000 count.

    Raises ``ValueError`` when there are no views or their times are out of order.
    """
    times = views.times[-MAX_VIEWS:]
    if not len(times):
        msg = "number of views == 0, must be at least 1"
        raise ValueError(msg)
    rows = rules.matches.rows_of(views.packed[-MAX_VIEWS:])
    of_rule, whole, scores = spans_of(times, rows, rules.matches.table, rules.windows, rules.minima, rules.shares)
    starts, untils, seen, matching = whole.T.tolist()
    spans: list[Span] = []
    segments: list[SegmentSpans] = []
    last = -1
    for rule, span in zip(of_rule.tolist(), map(Span, starts, untils, scores.tolist(), seen, matching), strict=True):
        if rule != last:
            spans, last = [], rule
            segments.append(SegmentSpans(rules.names[rule], spans))
        spans.append(span)
    return Membership(rules.version, int(times[-1]), segments)


def warm_up() -> None:
    """Compile the kernel, or load it from the disk cache, so that the first user doesn't wait for it."""
    spans_of(*_kernel_arguments_of_nothing())


def _kernel_arguments_of_nothing() -> tuple[NDArray[Any], ...]:
    one = np.zeros(1, np.int64)
    return one, np.zeros(1, np.int32), np.zeros((1, 1), np.uint8), one + 1, np.ones((1, 2), np.int64), np.ones((1, 5))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _key(scaled: float, exponent: float) -> float:
    """A number that orders as ``scaled * 2**exponent`` does (exponent >= 0), without ever overflowing."""
    if scaled == 0.0:
        return 0.0
    return float(np.copysign(np.log2(abs(scaled)) + exponent + _LOG_OFFSET, scaled))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _last_reaching(extremes, bound, low, high, guess, sign):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """The last k in [low, high) with ``sign * extremes[k] >= sign * bound``, or low - 1; that side never rises with k.

    Neighbouring suffixes mostly have neighbouring answers, so the search widens from ``guess``, doubling its step.
    """
    guess = min(max(guess, low), high - 1)
    step = 1
    if sign * extremes[guess] >= sign * bound:
        low = guess + 1
        while low + step <= high:
            if sign * extremes[low + step - 1] < sign * bound:
                high = low + step - 1
                break
            low += step
            step *= 2
    else:
        high = guess
        while high - step >= low:
            if sign * extremes[high - step] >= sign * bound:
                low = high - step + 1
                break
            high -= step
            step *= 2
    while low < high:
        middle = (low + high) // 2
        if sign * extremes[middle] >= sign * bound:
            low = middle + 1
        else:
            high = middle
    return low - 1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sums(threshold, hits, sizes, times, half_life, prior, start, sums, extremes, sign):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Fill ``sums`` with A(k) and ``extremes`` with the suffix maxima (sign 1) or minima (sign -1) of its left-hand side."""
    scaled, first = 0.0, times[start]
    for k in range(start, len(hits)):
        if half_life > 0.0:
            if k > start:
                scaled *= 2.0 ** ((times[k - 1] - times[k]) / half_life)
            scaled += hits[k] - threshold * sizes[k]
            exponent = (times[k] - first) / half_life
            sums[k] = _key(scaled, exponent)
            extremes[k] = _key(scaled + prior, exponent)
        else:
            scaled += hits[k] - threshold * sizes[k]
            sums[k] = scaled
            extremes[k] = scaled + prior
    for k in range(len(hits) - 2, start - 1, -1):
        if sign * extremes[k + 1] > sign * extremes[k]:
            extremes[k] = extremes[k + 1]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def spans_of(times, rows, table, windows, minima, shares):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0912, PLR0915
    """(rule[m], (start, until, views, matching)[m, 4], score[m]) of all spans, by rule, then by time."""
    n, as_of = len(times), times[-1]
    ends = np.empty(n, np.int64)
    groups = 0
    for i in range(n):
        if i + 1 < n and times[i + 1] < times[i]:
            raise ValueError("views are out of order, must be sorted by event time")  # noqa: EM101
        if i + 1 == n or times[i + 1] != times[i]:
            ends[groups] = i
            groups += 1
    at = np.empty(groups, np.int64)
    days = np.empty(groups, np.int64)
    sizes = np.empty(groups, np.int64)
    for g in range(groups):
        at[g] = times[ends[g]]
        days[g] = at[g] // DAY_MS
        sizes[g] = ends[g] - (ends[g - 1] if g else -1)

    capacity = len(windows) * (groups // 2 + 1)
    of_rule = np.empty(capacity, np.int32)
    whole = np.empty((capacity, 4), np.int64)
    scores = np.empty(capacity, np.float64)
    found = 0

    hits = np.empty(groups, np.int64)
    rank = np.empty(groups, np.int64)  # how many distinct dates have a match, up to and with the group
    entering = np.empty(groups)
    leaving = np.empty(groups)
    enter_maxima = np.empty(groups)
    leave_minima = np.empty(groups)
    mass = np.empty(groups + 1)  # half life: weights of the suffix, the newest view's being 1
    matching_mass = np.empty(groups + 1)

    for rule in range(len(windows)):
        window, min_views, min_days = windows[rule], minima[rule, 0], minima[rule, 1]
        enter, leave, half_life, prior_views, prior_share = shares[rule]
        prior_matching = prior_views * prior_share
        start = 0
        while at[start] <= as_of - window:
            start += 1
        views = n - (ends[start - 1] + 1 if start else 0)
        if views < min_views:
            continue
        matching, seen_days, last_day = 0, 0, np.int64(-1)
        for g in range(start, groups):
            hit = 0
            for i in range(ends[g] + 1 - sizes[g], ends[g] + 1):
                hit += table[rows[i], rule]
            hits[g] = hit
            matching += hit
            if hit and days[g] != last_day:
                seen_days += 1
                last_day = days[g]
            rank[g] = seen_days
        if seen_days < min_days:
            continue
        if half_life > 0.0:
            mass[groups] = matching_mass[groups] = 0.0
            for g in range(groups - 1, start - 1, -1):
                weight = 2.0 ** ((at[g] - as_of) / half_life)
                mass[g] = mass[g + 1] + weight * sizes[g]
                matching_mass[g] = matching_mass[g + 1] + weight * hits[g]

        searchable = is_open = False
        entered = left = groups - 1
        first_match = start
        for j in range(start, groups):
            while first_match < groups and (first_match < j or hits[first_match] == 0):
                first_match += 1
            if views < min_views or first_match == groups or seen_days - rank[first_match] + 1 < min_days:
                break
            have, total = matching + prior_matching, views + prior_views
            if half_life > 0.0:
                have, total = matching_mass[j] + prior_matching, mass[j] + prior_views
            if have >= enter * total:
                member = True
            elif have < leave * total:
                member = False
            else:
                if not searchable:
                    prior = prior_views * (prior_share - enter)
                    _sums(enter, hits[:groups], sizes, at, half_life, prior, start, entering, enter_maxima, 1)
                    prior = prior_views * (prior_share - leave)
                    _sums(leave, hits[:groups], sizes, at, half_life, prior, start, leaving, leave_minima, -1)
                    searchable = True
                bound = entering[j - 1] if j > start else 0.0
                entered = _last_reaching(enter_maxima, bound, j, groups, entered, 1)
                bound = np.nextafter(leaving[j - 1] if j > start else 0.0, -np.inf)  # below, not at it
                left = _last_reaching(leave_minima, bound, j, groups, left, -1)
                member = entered > left
                if member:
                    until_entered = views - (n - 1 - ends[entered])
                    entered_days = rank[entered] - rank[first_match] + 1 if first_match <= entered else 0
                    member = until_entered >= min_views and entered_days >= min_days
            if member and not is_open:
                of_rule[found] = rule
                whole[found, _START] = as_of if j == start else at[j - 1] + window
                whole[found, _VIEWS] = views
                whole[found, _MATCHING] = matching
                scores[found] = have / total
                found += 1
            if member:
                whole[found - 1, _UNTIL] = at[j] + window
            is_open = member
            views -= sizes[j]
            matching -= hits[j]
    return of_rule[:found], whole[:found], scores[:found]
