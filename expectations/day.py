"""The suite ``day``: volume, users, copies, lateness, missing values and mix of a day, over all its rows."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from expectations.checks import Check, Measure, Suite, brief, share, suite_of
from expectations.evidence import Evidence
from expectations.volume import band_of
from schemas.day_profile import AttributeProfile, DayProfile, total_variation
from schemas.quality import Thresholds

_NO_WEEK: Final = "nothing to compare to: no day in the week before"
_NOTHING: Final = AttributeProfile("category", 0, 0, {})


def day_suite(evidence: Evidence, thresholds: Thresholds) -> Suite:
    """What is expected of the day's profile, against bounds and against the week's."""
    day, ago = evidence.day, _days_ago(evidence)
    measures = [
        _missing(evidence.missing_dates),
        *_volume(day, ago, thresholds),
        *_rows(day, thresholds),
    ]
    for name in sorted(evidence.catalogue.attributes):
        measures += _attribute(name, day, evidence.week, thresholds)
    suite = suite_of("day", measures)
    dated = Check("expect_column_values_to_be_in_set", "date", evidence.date, {"column": "date", "value_set": [evidence.date]})
    return suite._replace(frame=suite.frame.append_column("date", [[day.date]]), checks=(dated, *suite.checks))


def chance_variation(one: Mapping[str, int], other: Mapping[str, int], ones: int, others: int) -> float:
    """The total variation to be expected of two samples of one mix, both not empty, of so many independent draws.

    Half the summed mean absolute deviations of the shares' differences, which are normal with variance
    ``p (1 - p) (1/n + 1/m)``; at most ``sqrt(k / (2 pi) * (1/n + 1/m))`` for k values.
    """
    pooled = Counter(one) + Counter(other)
    shares = (count / pooled.total() for count in pooled.values())
    factor = 2 / math.pi * (1 / ones + 1 / others)
    return sum(math.sqrt(factor * p * (1 - p)) for p in shares) / 2


def _days_ago(evidence: Evidence) -> dict[int, DayProfile]:
    today, ago = dt.date.fromisoformat(evidence.date), {}
    for profile in evidence.week:
        days = (today - dt.date.fromisoformat(profile.date)).days
        if not 1 <= days <= 7 or days in ago:
            msg = f"week has {profile.date}, must be of the seven dates before {evidence.date}, each once"
            raise ValueError(msg)
        ago[days] = profile
    return ago


def _missing(dates: Sequence[str]) -> Measure:
    return Measure("missing dates", len(dates), "none: the weekday before has a partition", 0, 0, list(dates))


def _volume(day: DayProfile, ago: Mapping[int, DayProfile], thresholds: Thresholds) -> Iterator[Measure]:
    volume, users = (thresholds.volume_drop, thresholds.volume_rise), (thresholds.users_drop, thresholds.users_rise)
    for name, limits in (("events", volume), ("views", volume), ("users", users)):
        count: int = getattr(day, name)
        band = band_of({days: getattr(profile, name) for days, profile in ago.items()}, *limits, thresholds)
        if band is None:
            yield Measure(name, count, f"at least 1; {_NO_WEEK}", low=1)
        else:
            yield Measure(name, count, f"between {brief(band.low)} and {brief(band.high)}: {band.why}", band.low, band.high)


def _rows(day: DayProfile, thresholds: Thresholds) -> Iterator[Measure]:
    yield Measure("rows", day.rows, "at least 1", low=1)
    yield _at_most("duplicates: share of rows", share(day.duplicates, day.rows), thresholds.duplicate_share)
    yield _at_most("misfiled: share of rows", share(day.misfiled, day.rows), thresholds.misfiled_share)
    for name, part, bound in (("late", day.late, thresholds.late_share), ("future", day.future, thresholds.future_share)):
        subject = f"{name}: share of rows received"
        if day.received:
            yield _at_most(subject, share(part, day.received), bound)
        else:
            yield Measure(subject, None, "nothing to judge: no row says when it was received")


def _attribute(name: str, day: DayProfile, week: Sequence[DayProfile], thresholds: Thresholds) -> Iterator[Measure]:
    if name not in day.attributes:
        msg = f"attributes of the day == {', '.join(day.attributes)}, must have {name}"
        raise ValueError(msg)
    profile = day.attributes[name]
    yield _nulls(name, day, week, thresholds)
    yield _at_most(f"{name}: unknown share", share(profile.unknown, day.view_rows), thresholds.unknown_share)
    mix = Counter[str]()
    for each in week:
        mix.update(each.attributes.get(name, _NOTHING).mix)
    subject, observed = f"{name}: total variation", total_variation(profile.mix, mix)
    if not mix.total():
        yield Measure(subject, None, f"nothing to compare to: no {name} in the week before" if week else _NO_WEEK)
    elif observed is None:
        yield Measure(subject, None, f"at most {brief(thresholds.mix_shift)} from the week's mix", 0, thresholds.mix_shift)
    else:
        # One user's views are alike, so there are as many draws as users; the week's are mostly the same users each day.
        draws = (min(day.users, sum(profile.mix.values())), min(max(each.users for each in week), mix.total()))
        chance = chance_variation(profile.mix, mix, *(max(number, 1) for number in draws))
        bound = thresholds.mix_shift + chance
        why = f"at most {brief(bound)} from the week's mix: {brief(thresholds.mix_shift)} + {brief(chance)} by chance"
        yield Measure(subject, observed, why, 0, bound)


def _nulls(name: str, day: DayProfile, week: Sequence[DayProfile], thresholds: Thresholds) -> Measure:
    """At most ``null_share``, and at most ``null_rise`` over the week's share and what chance adds.

    An attribute that is sparse, or that more views of the week lacked, is spared the former.
    """
    subject, observed = f"{name}: null share", share(day.attributes[name].nulls, day.view_rows)
    most = 1.0 if name in thresholds.sparse else thresholds.null_share
    why = f"at most {brief(most)}"
    held = [each for each in week if name in each.attributes]
    rows = sum(each.view_rows for each in held)
    if rows and day.view_rows:
        before = sum(each.attributes[name].nulls for each in held) / rows
        chance = thresholds.noise_sigmas * math.sqrt(before * (1 - before) * (1 / rows + 1 / day.view_rows))
        risen = before + thresholds.null_rise + chance
        if risen < most or before > most:
            most = risen
            why = f"at most {brief(most)}: the week's {brief(before)} + {brief(thresholds.null_rise)} + {brief(chance)} by chance"
    return Measure(subject, observed, why, 0, most)


def _at_most(subject: str, observed: float | None, bound: float) -> Measure:
    return Measure(subject, observed, f"at most {brief(bound)}", 0, bound)
