"""Who is a member after a replay (SEMANTICS §3), compiled: the one kernel under spans and days. No Beam, no I/O.

A window is always a run of views ``j..k`` of one user, its last view the last of its instant. Prefix sums over the user's
views are kept once a rule; then each window costs O(1), or O(log n) between the thresholds:

- the share after view ``k`` of a replay from ``j`` on reaches a threshold ``e`` exactly when ``A(k) + c(s - e)w(k) >= A(j-1)``,
  where ``A(k) = Σ_{i<=k} w(i)(x(i) - e)``, ``x`` says whether a view matches, ``w`` is its weight, ``c`` and ``s`` are the prior's
  views and share. Left of the sign stands only ``k``, right only ``j``;
- at ``p >= enter`` a window that has its views and days is in, at ``p < exit`` it is out; only between them history decides;
- then a member is who entered last after leaving last. The last ``k`` whose left side reaches a bound is found by binary
  search in a stack of left sides, from which each new one has removed those that can't be the last any more. Enough views and
  days, once reached, stay reached, so it is enough to check them at the last entering ``k``.

With a half life the weights span thousands of powers of two, so sums are kept scaled by their newest weight, and compared by
sign and logarithm.

One file, as numba's cache on disk doesn't see changes in others; one array of work space, as arrays in tuples cost a reference
count at each call.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numba
import numpy as np

from schemas.instants import DAY_MS

MAX_VIEWS: Final = 1_000
TOLERANCE: Final = 1e-9  # differences of shares below this are equality

_LOG_OFFSET = 1_100.0  # above -log2 of the smallest positive double, so that a logarithm plus this is positive

# Rows of the work space, float64[_ROWS, n + 6]. At place i: sums over the views before i, of hits, of weights and of matching
# weights (the two with a half life only, scaled so that view i - 1 weighs 1); how many dates have a match up to and with view i,
# and the first match from i on (where more than one date is wanted). Then the stacks of places where a replay may have entered
# last, or left last, each with its keys; and numbers: sizes of the stacks, views pushed, the last answers.
_HITS, _WEIGHTS, _MATCHING, _RANKS, _NEXTS, _ENTERING, _ENTERING_KEYS, _LEAVING, _LEAVING_KEYS, _NUMBERS = range(10)
_ROWS = 10
_PUSHED, _ENTERED, _LEFT, _ENTERING_SIZE, _LEAVING_SIZE = range(5)
_START, _UNTIL, _VIEWS, _MATCHES = range(4)
TP, FP, FN, TN, MEMBERS, ENTERED, LEFT, FLIPS, INSIDE = range(9)  # what ``days_of`` counts
COUNTS = 9
INSIDE_AT_END, INSIDE_AT_START = 1, 2  # bits of a user's course over the days
NEVER = np.iinfo(np.int64).max


class Thresholds(NamedTuple):
    """One rule's numbers: lengths in ms (``half_life`` 0: none), shares less the tolerance, the prior's views and matching ones."""

    window: int
    min_views: int
    min_days: int
    enter: float
    leave: float
    half_life: float
    prior_views: float
    prior: float


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _thresholds(number, windows, minima, shares):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The numbers of one rule out of the arrays of all."""
    enter, leave, half_life, prior_views, prior_share = shares[number]
    window, min_views, min_days = windows[number], minima[number, 0], minima[number, 1]
    return Thresholds(window, min_views, min_days, enter, leave, half_life, prior_views, prior_views * prior_share)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _work_space(n):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Room for the sums and stacks of a user with ``n`` views, used again for each rule."""
    return np.empty((_ROWS, n + 6))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _fill(work, times, bits, column, rule, first):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Sum up the views from ``first`` on for one rule, whose matches are bit ``column`` of ``bits``; its history is empty."""
    word, shift, one = column >> 6, np.uint64(column & 63), np.uint64(1)
    n = len(times)
    work[_NUMBERS, :5] = 0.0
    work[_NUMBERS, _PUSHED] = first
    hits = np.int64(0)
    work[_HITS, first] = 0.0
    for i in range(first, n):
        hits += np.int64((bits[i, word] >> shift) & one)
        work[_HITS, i + 1] = hits
    if rule.min_days > 1:
        rank, last_day = 0, np.int64(-1)
        for i in range(first, n):
            day = times[i] // DAY_MS
            if work[_HITS, i + 1] > work[_HITS, i] and day != last_day:
                rank += 1
                last_day = day
            work[_RANKS, i] = rank
        work[_NEXTS, n] = n
        for i in range(n - 1, first - 1, -1):
            work[_NEXTS, i] = i if work[_HITS, i + 1] > work[_HITS, i] else work[_NEXTS, i + 1]
    if rule.half_life > 0.0:
        weight = matching = 0.0
        work[_WEIGHTS, first] = work[_MATCHING, first] = 0.0
        for i in range(first, n):
            if i > first and times[i] != times[i - 1]:
                factor = 2.0 ** ((times[i - 1] - times[i]) / rule.half_life)
                weight *= factor
                matching *= factor
            weight += 1.0
            matching += work[_HITS, i + 1] - work[_HITS, i]
            work[_WEIGHTS, i + 1] = weight
            work[_MATCHING, i + 1] = matching


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _masses(work, times, rule, first, j, k):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Weights of matching views and of all views of the window ``j..k``, prior added: the share is their ratio."""
    if rule.half_life > 0.0:
        have, total = work[_MATCHING, k + 1], work[_WEIGHTS, k + 1]
        if j > first:
            factor = 2.0 ** ((times[j - 1] - times[k]) / rule.half_life)
            have = max(have - work[_MATCHING, j] * factor, 0.0)
            total -= work[_WEIGHTS, j] * factor
        return have + rule.prior, total + rule.prior_views
    return work[_HITS, k + 1] - work[_HITS, j] + rule.prior, k + 1 - j + rule.prior_views


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _dates(work, rule, j, k):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """On how many dates, or whether on any, the window's matching views fall."""
    if rule.min_days == 1:
        return min(work[_HITS, k + 1] - work[_HITS, j], 1.0)
    match = np.int64(work[_NEXTS, j])
    return work[_RANKS, k] - work[_RANKS, match] + 1.0 if match <= k else 0.0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _key(scaled: float, exponent: float) -> float:
    """A number that orders as ``scaled * 2**exponent`` does (exponent >= 0), without ever overflowing."""
    if scaled == 0.0:
        return 0.0
    return float(np.copysign(np.log2(abs(scaled)) + exponent + _LOG_OFFSET, scaled))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sum_before(work, times, rule, first, i, threshold, prior):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """A over the views before ``i``, and the prior's term, as a number that orders as it does."""
    if rule.half_life > 0.0:
        if i == first:
            return 0.0
        scaled = work[_MATCHING, i] - threshold * work[_WEIGHTS, i] + prior
        return _key(scaled, (times[i - 1] - times[first]) / rule.half_life)
    return work[_HITS, i] - threshold * (i - first) + prior


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _push(work, times, rule, first, j, k):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Bring the stacks up to view ``k``; places before ``j`` are of no use any more."""
    enter_prior, leave_prior = rule.prior - rule.prior_views * rule.enter, rule.prior - rule.prior_views * rule.leave
    entering, leaving = np.int64(work[_NUMBERS, _ENTERING_SIZE]), np.int64(work[_NUMBERS, _LEAVING_SIZE])
    for i in range(max(np.int64(work[_NUMBERS, _PUSHED]), j), k + 1):
        if i < k and times[i + 1] == times[i]:
            continue  # evaluated once after the last view of an instant
        key = _sum_before(work, times, rule, first, i + 1, rule.enter, enter_prior)
        while entering and work[_ENTERING_KEYS, entering - 1] <= key:
            entering -= 1
        work[_ENTERING, entering], work[_ENTERING_KEYS, entering] = i, key
        entering += 1
        key = _sum_before(work, times, rule, first, i + 1, rule.leave, leave_prior)
        while leaving and work[_LEAVING_KEYS, leaving - 1] >= key:
            leaving -= 1
        work[_LEAVING, leaving], work[_LEAVING_KEYS, leaving] = i, key
        leaving += 1
    work[_NUMBERS, _ENTERING_SIZE], work[_NUMBERS, _LEAVING_SIZE] = entering, leaving
    work[_NUMBERS, _PUSHED] = max(work[_NUMBERS, _PUSHED], k + 1)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count(work, row, size, bound, sign, guess):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """How many keys in a row of the work space, from the bottom of the stack, have ``sign * key >= sign * bound``.

    Neighbouring windows mostly have neighbouring answers, so the search widens from ``guess``, doubling its step.
    """
    low, high, step = 0, size, 1
    guess = min(guess, size - 1)
    if sign * work[row, guess] >= sign * bound:
        low = guess + 1
        while low + step <= high:
            if sign * work[row, low + step - 1] < sign * bound:
                high = low + step - 1
                break
            low += step
            step *= 2
    else:
        high = guess
        while high - step >= 0:
            if sign * work[row, high - step] >= sign * bound:
                low = high - step + 1
                break
            high -= step
            step *= 2
    while low < high:
        middle = (low + high) // 2
        if sign * work[row, middle] >= sign * bound:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _entered_last(work, times, rule, first, j, k):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Membership after the window ``j..k`` by its history: whether the replay entered after it left last."""
    if work[_NUMBERS, _PUSHED] <= k:
        _push(work, times, rule, first, j, k)
    bound = _sum_before(work, times, rule, first, j, rule.enter, 0.0)
    size, guess = np.int64(work[_NUMBERS, _ENTERING_SIZE]), np.int64(work[_NUMBERS, _ENTERED])
    count = _count(work, _ENTERING_KEYS, size, bound, 1.0, guess)
    work[_NUMBERS, _ENTERED] = count
    entered = np.int64(work[_ENTERING, count - 1]) if count else -1
    bound = np.nextafter(_sum_before(work, times, rule, first, j, rule.leave, 0.0), -np.inf)  # below, not at it
    size, guess = np.int64(work[_NUMBERS, _LEAVING_SIZE]), np.int64(work[_NUMBERS, _LEFT])
    count = _count(work, _LEAVING_KEYS, size, bound, -1.0, guess)
    work[_NUMBERS, _LEFT] = count
    left = np.int64(work[_LEAVING, count - 1]) if count else -1
    if entered < j or entered < left:
        return False
    return entered + 1 - j >= rule.min_views and _dates(work, rule, j, entered) >= rule.min_days


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _is_member(work, times, rule, first, j, k, was, has_lost):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0913
    """Membership after the replay of the window ``j..k``; ``was`` is the answer before its last views came.

    That answer stands between the thresholds unless the window ``has_lost`` views too.
    """
    if k + 1 - j < rule.min_views or _dates(work, rule, j, k) < rule.min_days:
        return False
    have, total = _masses(work, times, rule, first, j, k)
    if have >= rule.enter * total:
        return True
    if have < rule.leave * total:
        return False
    return _entered_last(work, times, rule, first, j, k) if has_lost else was


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def spans_of(times, bits, columns, windows, minima, shares):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, PLR0913
    """(rule[m], (start, until, views, matching)[m, 4], score[m]) of all spans, by rule, then by time.

    ``bits[i, column // 64]`` has bit ``column % 64`` set where view ``i`` matches the condition of that column.
    """
    n, as_of = len(times), times[-1]
    instants = 1
    for i in range(1, n):
        if times[i] < times[i - 1]:
            raise ValueError("views are out of order, must be sorted by event time")  # noqa: EM101
        instants += times[i] != times[i - 1]
    capacity = len(windows) * (instants // 2 + 1)
    of_rule = np.empty(capacity, np.int32)
    whole = np.empty((capacity, 4), np.int64)
    scores = np.empty(capacity, np.float64)
    found, k = 0, n - 1
    work = _work_space(n)

    for number in range(len(windows)):
        rule = _thresholds(number, windows, minima, shares)
        first = np.searchsorted(times, as_of - rule.window, "right")
        if n - first < rule.min_views:
            continue
        _fill(work, times, bits, columns[number], rule, first)
        is_open = False
        j = first
        while j < n:
            if n - j < rule.min_views or _dates(work, rule, j, k) < rule.min_days:
                break
            have, total = _masses(work, times, rule, first, j, k)
            if have >= rule.enter * total:
                member = True
            elif have < rule.leave * total:
                member = False
            else:
                member = _entered_last(work, times, rule, first, j, k)
            if member and not is_open:
                of_rule[found] = number
                whole[found, _START] = as_of if j == first else times[j - 1] + rule.window
                whole[found, _VIEWS] = n - j
                whole[found, _MATCHES] = np.int64(work[_HITS, n] - work[_HITS, j])
                scores[found] = have / total
                found += 1
            if member:
                whole[found - 1, _UNTIL] = times[j] + rule.window
            is_open = member
            j += 1
            while j < n and times[j] == times[j - 1]:
                j += 1
    return of_rule[:found], whole[:found], scores[:found]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def days_of(times, bits, users, start, days, columns, windows, minima, shares):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, PLR0912, PLR0913, PLR0915
    """What members saw and what became of them, day by day (SEMANTICS §5), and each user's course from start to end.

    ``users[u]:users[u + 1]`` are the views of user ``u``, in order of (time, event id); ``start`` is the first day's 00:00 (ms
    UTC), ``days`` how many follow. Gives counts int64[days, rules, COUNTS] and courses uint8[users, rules]: the bits
    ``INSIDE_AT_START`` and ``INSIDE_AT_END``, so 0 stayed out, 1 entered, 2 left, 3 stayed in.

    A user's instants are walked in order of time: of a view, of an expiry, or of both. What is true "just before" an instant
    is what was true after the last one, so each view is judged before it is taken in.
    """
    counts = np.zeros((days, len(windows), COUNTS), np.int64)
    courses = np.zeros((len(users) - 1, len(windows)), np.uint8)
    end = start + days * DAY_MS
    longest, largest = np.max(windows), np.int64(0)
    for user in range(len(users) - 1):
        largest = max(largest, users[user + 1] - users[user])
    work = _work_space(largest)

    for user in range(len(users) - 1):
        a, b = users[user], users[user + 1]
        a += np.searchsorted(times[a:b], start - longest, "left")
        b = a + np.searchsorted(times[a:b], end, "left")
        if a == b:
            continue
        seen, matches = times[a:b], bits[a:b]
        n = b - a
        before = np.searchsorted(seen, start, "left")
        for number in range(len(windows)):
            rule = _thresholds(number, windows, minima, shares)
            k = before
            j = max(np.searchsorted(seen, start - rule.window, "left"), k - MAX_VIEWS)
            first = j
            _fill(work, seen, matches, columns[number], rule, first)
            member = _is_member(work, seen, rule, first, j, k - 1, False, True)
            day, next_day = 0, start + DAY_MS
            was = inside = at_start = member
            while day < days:
                instant = seen[k] if k < n else NEVER
                if j < k:
                    instant = min(instant, seen[j] + rule.window)
                while day < days and instant >= next_day:
                    counts[day, number, MEMBERS] += member
                    counts[day, number, ENTERED] += member and not was
                    counts[day, number, LEFT] += was and not member
                    counts[day, number, INSIDE] += inside
                    day, next_day = day + 1, next_day + DAY_MS
                    was = inside = member
                if day == days:
                    break
                was_k, was_j = k, j
                while k < n and seen[k] == instant:
                    k += 1
                if k > was_k:
                    matching = np.int64(work[_HITS, k] - work[_HITS, was_k])
                    counts[day, number, TP if member else FN] += matching
                    counts[day, number, FP if member else TN] += k - was_k - matching
                while j < was_k and seen[j] + rule.window <= instant:
                    j += 1
                j = max(j, k - MAX_VIEWS)
                now = _is_member(work, seen, rule, first, j, k - 1, member, j > was_j)
                counts[day, number, FLIPS] += now != member
                inside = inside or now
                member = now
            courses[user, number] = INSIDE_AT_START * at_start + INSIDE_AT_END * member
    return counts, courses
