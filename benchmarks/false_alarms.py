"""False alarms: A/A experiments with heavy repeat users, read in every way, by simulation.

    make bench-false-alarms
    python -m benchmarks.false_alarms [--runs N] [--seed N]

Nothing differs between the arms, so whatever is found is a false alarm. Users differ in how often they come (lognormal: a tenth of
them make half of the sessions) and in how much they look at; sessions or users are randomised, half and half, for 14 days. Read:
p < 0.05 at the planned end; the same every day, which is what must not be done; the always-valid sequence every day; segments;
sample-ratio mismatch; what the controller decides every day on 12 and on 30 segments. Beside stands the naive reading, which takes
sessions as independent.

Prints tables and writes benchmarks/results/false_alarms.json and false_alarms.svg.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.aa_experiments import Setting, aa_experiment
from benchmarks.controller_alarms import CONTROLLER_READINGS, SEGMENTS, controller_runs_of
from benchmarks.false_alarms_plot import write_plot
from benchmarks.results import FOLDER, write_results
from experiments.effect import ALPHA, effect_of, sums_of
from experiments.interaction import effects_by_segment
from experiments.metrics import columns_of
from experiments.multiplicity import holm
from experiments.naive import naive_of
from experiments.sequential import looks_of
from experiments.sessions import CONTROL, TREATMENT, Floats, Sessions
from experiments.srm import ALERT, counts_by_look, sequential_srm, srm_of
from schemas.experiments import UNITS, Unit

EQUAL: Final = (50, 50)
READINGS: Final = {
    "fixed": "p < 0.05 at the planned end",
    "naive": "naive: Welch's test of sessions",
    "fixed_ctr": "CTR: p < 0.05 at the planned end",
    "naive_ctr": "naive: each impression on its own",
    "fixed_lead": "lead rate: p < 0.05 at the planned end",
    "always_valid": "always-valid, looked at every day",
    "peeked": "p < 0.05, looked at every day",
    "peeked_naive": "naive: Welch's test, every day",
    "segments_holm": "any of 5 segments, Holm",
    "segments": "naive: any of 5 segments, no correction",
    "srm": "SRM of the unit, p < 0.001",
    "srm_sequential": "sequential SRM, every day, p < 0.001",
    "srm_sessions": "naive: SRM of sessions, whatever the unit",
}
BY_DAY: Final = ("always_valid", "peeked", "peeked_naive")
OTHER_SETTINGS: Final = {
    "100 users": Setting(users=100),
    "300 users": Setting(users=300),
    "1,000 users": Setting(users=1_000),
    "4,000 users, of whom one in a thousand makes a seventh of the sessions": Setting(spread=2.0),
}


class Run(NamedTuple):
    """Which readings of one experiment gave a false alarm, and for those read daily the first day of one (``days``: none)."""

    alarms: dict[str, bool]
    first: dict[str, int]


class Share(NamedTuple):
    """False alarms among the runs, with the exact 95 % interval (Clopper and Pearson 1934)."""

    alarms: int
    runs: int
    share: float
    low: float
    high: float


def runs_of(setting: Setting, unit: Unit, runs: int, seed: int) -> list[Run]:
    """So many experiments; each has a seed of its own."""
    seeds = np.random.SeedSequence([seed, UNITS.index(unit), setting.users]).spawn(runs)
    return [run_of(aa_experiment(np.random.default_rng(each), setting, unit), unit, setting) for each in seeds]


def run_of(sessions: Sessions, unit: Unit, setting: Setting) -> Run:
    """One experiment, read in every way."""
    views, arm = sessions.vehicles, sessions.arm
    days = len(sessions.days)
    looks = looks_of(sessions, views, None, setting.expected_sessions)
    users = _users_by_day(sessions, days)
    at_looks = [_p(look.effect, look.se, users[look.day] - 1) for look in looks]
    first = {
        "always_valid": _first([look.p_running for look in looks], days),
        "peeked": _first(at_looks, days),
        "peeked_naive": _first(_welch_by_day(sessions, days), days),
    }
    end = effect_of(sums_of(views, None, arm, sessions.user, sessions.users))
    by_segment = [effect.p for effect in effects_by_segment(sessions, views, None).values()]
    counts = counts_by_look(sessions, unit)
    alarms = {
        "fixed": _below(end.p),
        "naive": _below(naive_of(views, None, arm).p),
        **{name: day < days for name, day in first.items()},
        "segments_holm": any(_below(p) for p in holm(by_segment)),
        "segments": any(_below(p) for p in by_segment),
        "srm": _below(srm_of(counts[-1], EQUAL), ALERT),
        "srm_sequential": _below(sequential_srm(counts, EQUAL), ALERT),
        "srm_sessions": _below(srm_of(np.bincount(arm, minlength=2), EQUAL), ALERT),
    }
    for metric in ("ctr", "lead"):
        columns = columns_of(sessions, metric)
        assert not isinstance(columns, str), columns
        alarms[f"fixed_{metric}"] = _below(effect_of(sums_of(*columns, arm, sessions.user, sessions.users)).p)
        if metric == "ctr":
            alarms["naive_ctr"] = _below(naive_of(*columns, arm).p)
    return Run(alarms, first)


def shares_of(runs: Sequence[Run]) -> dict[str, Share]:
    """By reading, how often it gave a false alarm."""
    return _shares([run.alarms for run in runs])


def share_of(alarms: int, runs: int) -> Share:
    """A share and its interval.

    >>> share_of(5, 100).share
    0.05
    """
    low, high = stats.binomtest(alarms, runs).proportion_ci(0.95, method="exact")
    return Share(alarms, runs, alarms / runs, float(low), float(high))


def controller_shares_of(setting: Setting, runs: int, seed: int) -> dict[str, dict[Unit, dict[str, Share]]]:
    """By number of segments and unit, the controller's false alarms."""
    shares: dict[str, dict[Unit, dict[str, Share]]] = {}
    for segments in SEGMENTS:
        print(f"false alarms: {runs:,} experiments of {segments} segments a unit", file=sys.stderr)
        found = {unit: _shares(controller_runs_of(setting, segments, unit, runs, seed)) for unit in UNITS}
        shares[f"{segments} segments"] = found
    return shares


def by_day_of(runs: Sequence[Run], days: int) -> dict[str, list[float]]:
    """For what is read daily, the share of runs with a false alarm up to the end of each day."""
    return {name: [sum(run.first[name] <= day for run in runs) / len(runs) for day in range(days)] for name in BY_DAY}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=2_000, metavar="N", help="experiments a unit; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    args = parser.parse_args(argv)
    out, start = Console(highlight=False), time.perf_counter()
    setting = Setting()
    runs = {unit: _told(setting, unit, args.runs, args.seed) for unit in UNITS}
    shares = {unit: shares_of(each) for unit, each in runs.items()}
    by_day = {unit: by_day_of(each, setting.days) for unit, each in runs.items()}
    others = {
        name: {unit: shares_of(_told(other, unit, args.runs // 2, args.seed)) for unit in UNITS}
        for name, other in OTHER_SETTINGS.items()
    }
    controlled = controller_shares_of(setting, args.runs // 4, args.seed)
    seconds = round(time.perf_counter() - start, 1)
    _show(out, f"{setting.users:,} users, {args.runs:,} A/A experiments a unit, {setting.days} days", shares)
    for name, other_shares in others.items():
        few = {unit: {key: other_shares[unit][key] for key in ("fixed", "naive", "always_valid")} for unit in UNITS}
        _show(out, f"{name}, {args.runs // 2:,} experiments a unit", few)
    for name, found in controlled.items():
        _show(out, f"{name}, {args.runs // 4:,} experiments a unit", found)
    plot = write_plot(FOLDER / "false_alarms.svg", by_day, ALPHA)
    path = write_results(
        "false_alarms",
        {
            "runs": args.runs,
            "seed": args.seed,
            "seconds": seconds,
            "setting": {**setting._asdict(), "sessions": setting.expected_sessions},
            "readings": READINGS,
            "shares": _plain(shares),
            "by_day": by_day,
            "other_settings": {name: _plain(other_shares) for name, other_shares in others.items()},
            "controller_readings": CONTROLLER_READINGS,
            "controller": {name: _plain(found) for name, found in controlled.items()},
        },
    )
    out.print(f"{seconds} s; {path}, {plot}", soft_wrap=True)


def _shares(alarms: Sequence[Mapping[str, bool]]) -> dict[str, Share]:
    return {name: share_of(sum(run[name] for run in alarms), len(alarms)) for name in alarms[0]}


def _plain(shares: Mapping[Unit, Mapping[str, Share]]) -> dict[Unit, dict[str, Any]]:
    return {unit: {name: each._asdict() for name, each in found.items()} for unit, found in shares.items()}


def _show(out: Console, title: str, shares: dict[Unit, dict[str, Share]]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("false alarms")
    for unit in UNITS:
        table.add_column(f"{unit}s randomised", justify="right")
    for name in shares[UNITS[0]]:
        cells = [
            f"{100 * each.share:.1f} % ({100 * each.low:.1f}–{100 * each.high:.1f})" for each in (shares[u][name] for u in UNITS)
        ]
        table.add_row((READINGS | CONTROLLER_READINGS)[name], *cells)
    out.print(table)


def _told(setting: Setting, unit: Unit, runs: int, seed: int) -> list[Run]:
    print(f"false alarms: {runs:,} experiments on {setting.users:,} users by {unit}", file=sys.stderr)
    return runs_of(setting, unit, runs, seed)


def _users_by_day(sessions: Sessions, days: int) -> Any:
    """How many users were there up to the end of each day; sessions are in order of time."""
    _, first = np.unique(sessions.user, return_index=True)
    return np.cumsum(np.bincount(sessions.day[first], minlength=days))


def _welch_by_day(sessions: Sessions, days: int) -> list[float]:
    """The naive p-values up to the end of each day, from sums."""
    place = 2 * sessions.day + sessions.arm

    def cumulative(weights: Floats | None) -> Floats:
        by_day = np.bincount(place, weights, 2 * days).reshape(days, 2).astype(np.float64)
        return np.asarray(by_day.cumsum(axis=0))

    n, x, xx = cumulative(None), cumulative(sessions.vehicles), cumulative(sessions.vehicles**2)
    with np.errstate(divide="ignore", invalid="ignore"):  # an arm with one session: NaN, no alarm
        means = x / n
        deviations = np.sqrt((xx - n * means**2) / (n - 1))
        arms = [each[:, arm] for arm in (TREATMENT, CONTROL) for each in (means, deviations, n)]
        found = stats.ttest_ind_from_stats(*arms, equal_var=False)
    return [float(p) for p in found.pvalue]


def _first(ps: Sequence[float | None], days: int) -> int:
    return next((day for day, p in enumerate(ps) if _below(p)), days)


def _below(p: float | None, alpha: float = ALPHA) -> bool:
    return p is not None and p < alpha


def _p(effect: float | None, se: float | None, df: float) -> float | None:
    return float(2 * stats.t.sf(abs(effect) / se, df)) if effect is not None and se and df > 0 else None


if __name__ == "__main__":
    main()
