"""An experiment as one HTML page with its plots in it: nothing is loaded from elsewhere, and it reads on a phone and on paper.

Of an experiment that must not be read the page has why, who was in it and the sample ratio, and no effect.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.metrics import SHARES
from experiments.sequential import Look
from experiments.settings import PRIMARY
from experiments.srm import ALERT
from experiments.verdict import NAMES, at_planned_end, is_early, verdict_of
from experiments.wording import NONE, change_text, interval_text, level_text, number_text, p_text, percent_text, share_text
from pipelines.experiment_plots import effect_over_time, sample_ratio_over_time
from pipelines.sessions_file import NO_DAYS

TEMPLATE: Final = Path(__file__).with_name("experiment_report.html.j2")
OVERALL: Final = "all triggered sessions"
ACTIONS: Final = {
    "ramp_up": "ramp up",
    "roll_back": "roll back",
    "keep_testing": "keep testing",
    "bandit": "bandit",
}
_WIDEST: Final = 3.0  # half-widths, of the median interval: how far a forest plot reaches at least


class Course(NamedTuple):
    """How the experiment went, day by day: what its document has only the end of. The p-values are those of the sample ratio."""

    days: tuple[str, ...]
    looks: tuple[Look, ...]
    all_p: tuple[float, ...]
    triggered_p: tuple[float, ...]


class Row(NamedTuple):
    """A row of the forest plot: places in per cent of its width; ``cut`` where the interval goes beyond."""

    name: str
    sessions: int
    each: Mapping[str, Any]
    interval: Sequence[float] | None
    p: float | None
    at: float | None
    low: float
    high: float
    cut: bool


def page_of(document: Mapping[str, Any], course: Course) -> str:
    """The page as text; ``course`` has looks at no effect where the document withholds it."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "p": p_text,
        "change": change_text,
        "share": share_text,
        "percent": percent_text,
        "number": number_text,
        "interval": interval_text,
        "count": _count,
    }
    level = level_text(document["alpha"])
    ended = at_planned_end(document)
    several = len(course.days) > 1
    ratios = {"all": course.all_p, "triggered": course.triggered_p}
    shows = document["readable"] and several and any(look.ci is not None for look in course.looks)
    fixed = document["metrics"][PRIMARY]["ci"] if ended else None
    rows = rows_of(document) if document["readable"] else []
    return environment.get_template(TEMPLATE.name).render(
        document={key: value for key, value in document.items() if key != "withheld"},
        verdict=verdict_of(document),
        title=document["experiment"] or "Experiment",
        period=_period(course.days),
        level=level,
        ended=ended,
        early=is_early(document),
        alert=ALERT,
        dash=NONE,
        names=NAMES,
        shares=SHARES,
        primary=PRIMARY,
        actions=ACTIONS,
        ratios=[ratio_of(document["srm"], which) for which in ratios],
        rows=rows,
        zero=_zero(document, rows),
        ratio_plot=_both(lambda wide: sample_ratio_over_time(ratios, course.days, wide=wide)) if several and course.all_p else None,
        effect_plot=_both(lambda wide: effect_over_time(course.looks, course.days, level, fixed, wide=wide)) if shows else None,
    )


def ratio_of(srm: Mapping[str, Any], which: str) -> dict[str, Any]:
    """Units by arm as they are and as they should be, and the shares of control in per cent."""
    counts, (control, treatment) = srm[which], srm["weights"]
    total = counts["control"] + counts["treatment"]
    share = control / (control + treatment)
    return {
        **counts,
        "which": which,
        "expected": (share * total, (1 - share) * total),
        "share": 100 * counts["control"] / total if total else None,
        "meant": 100 * share,
    }


def rows_of(document: Mapping[str, Any]) -> list[Row]:
    """The forest plot: all triggered sessions, then the segments as the document has them. Before the planned end, always valid."""
    early = is_early(document)
    primary, sequential = document["metrics"][PRIMARY], document["sequential"]
    overall = {**primary, "action": None}
    ended = at_planned_end(document)
    found: list[tuple[str, int, Mapping[str, Any], Any, Any]] = [
        (
            OVERALL,
            sum(document["population"]["triggered"].values()),
            overall,
            primary["ci"] if ended else sequential["ci"],
            primary["p"] if ended else sequential["p"],
        )
    ]
    for name, each in document["segments"].items():
        found.append((name, each["sessions"], each, each["ci_sequential" if early else "ci"], each["p_action"]))
    low, high = _reach((each["effect"], interval) for _, _, each, interval, _ in found)

    def place(value: float) -> float:
        return 100 * min(max((value - low) / (high - low), 0), 1)

    return [
        Row(
            name,
            sessions,
            each,
            interval,
            p,
            None if each["effect"] is None else place(each["effect"]),
            place(interval[0]) if interval else 0.0,
            place(interval[1]) if interval else 0.0,
            bool(interval) and (interval[0] < low or interval[1] > high),
        )
        for name, sessions, each, interval, p in found
    ]


def _reach(found: Iterable[tuple[float | None, Sequence[float] | None]]) -> tuple[float, float]:
    """From where to where the forest plot goes: all effects and 0, and all intervals but those that dwarf the others."""
    pairs = [(effect, interval) for effect, interval in found if effect is not None]
    widths = [(interval[1] - interval[0]) / 2 for _, interval in pairs if interval]
    most = _WIDEST * statistics.median(widths) if widths else 1.0
    ends = [0.0, *(effect for effect, _ in pairs)]
    for effect, interval in pairs:
        if interval:
            ends += [max(interval[0], effect - most), min(interval[1], effect + most)]
    low, high = min(ends), max(ends)
    pad = 0.04 * (high - low) or 1.0
    return low - pad, high + pad


def _zero(document: Mapping[str, Any], rows: Sequence[Row]) -> float:
    """Where 0 is in the forest plot, from a row whose places are known."""
    if not rows:
        return 0.0
    low, high = _reach((row.each["effect"], row.interval) for row in rows)
    return 100 * (0 - low) / (high - low)


def _both(plot: Callable[[bool], str]) -> Markup:
    """A plot for a wide page and one for a narrow page, of which one is shown."""
    wide, narrow = plot(True), plot(False)
    return Markup(f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>')


def _period(days: Sequence[str]) -> str:
    if len(days) < 2:
        return f"day {days[0]}" if days and days != NO_DAYS else ""
    return f"{len(days)} days, {days[0]} to {days[-1]}"


def _count(number: float) -> str:
    return f"{number:,.0f}"
