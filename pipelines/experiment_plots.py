"""The plots of an experiment's page: the effect over time with its always-valid band, and the p-value of the sample ratio.

Inline SVG in the colours of the page around it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from experiments.sequential import Look
from experiments.srm import ALERT
from experiments.wording import MINUS
from pipelines.page_plots import INK, NEW, OLD, QUIET, figure_of, style_of, svg_of

WIDE_INCHES: Final = (8.0, 3.2)
NARROW_INCHES: Final = (4.6, 3.4)
LEAST_P: Final = 1e-9
_SETTLED: Final = 0.25  # of the sessions: looks before may run off the plot


def effect_over_time(
    looks: Sequence[Look], days: Sequence[str], level: str, fixed: Sequence[float] | None = None, *, wide: bool = True
) -> str:
    """The effect at the end of each day with the always-valid band; ``fixed`` is the interval at the planned end."""
    known = [look for look in looks if look.ci is not None and look.effect is not None]
    with mpl.rc_context(style_of(f"effect over time {wide}")):
        figure, axes = _figure(wide)
        xs = _axis(axes, days)
        at = [xs[look.day] for look in known]
        lows, highs = ([look.ci[end] for look in known if look.ci] for end in (0, 1))
        effects = [look.effect for look in known if look.effect is not None]
        axes.fill_between(at, lows, highs, color=NEW, alpha=0.15, linewidth=0, label=f"{level}, always valid")
        for ends in (lows, highs):
            axes.plot(at, ends, color=NEW, linewidth=1)
        axes.plot(at, effects, color=NEW, linewidth=2, marker="o", markersize=4, label="effect")
        if fixed is not None and at:
            middle = effects[-1]
            error = [[middle - fixed[0]], [fixed[1] - middle]]
            axes.errorbar(
                at[-1:], effects[-1:], error, color=INK, linewidth=2.5, capsize=6, zorder=4, label=f"{level}, planned end"
            )
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_ylabel("difference in vehicles viewed")
        axes.set_ylim(*_limits(known))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.3g}".replace("-", MINUS) if value else "0"))
        axes.legend(frameon=False, loc="best", fontsize=9, labelcolor=INK, ncols=3 if wide else 1)
        return svg_of(figure, "Effect on vehicles viewed at the end of each day, with its always-valid band")


def sample_ratio_over_time(ps: Mapping[str, Sequence[float]], days: Sequence[str], *, wide: bool = True) -> str:
    """The always-valid p-values of the sample ratio at the end of each day, by which units, beside the level of an alert."""
    with mpl.rc_context(style_of(f"sample ratio {wide}")):
        figure, axes = _figure(wide)
        xs = _axis(axes, days)
        known = {name: [max(p, LEAST_P) for p in values] for name, values in ps.items()}
        for (name, values), (colour, width) in zip(known.items(), ((OLD, 5), (NEW, 2)), strict=True):
            if not values:  # no such units: nothing to draw
                continue
            axes.plot(xs, values, color=colour, linewidth=width, marker="o", markersize=width + 1.5, label=name)
        axes.axhline(ALERT, color=INK, linewidth=1)
        beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
        axes.annotate("alert", (1, ALERT), (5, 0), color=INK, fontsize=9, **beside)
        axes.set_yscale("log")
        axes.set_ylim(min(ALERT / 10, *(min(values) / 3 for values in known.values() if values)), 2)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_ylabel("p, always valid")
        axes.legend(frameon=False, loc="best", fontsize=9, labelcolor=INK, ncols=2)
        return svg_of(figure, "Always-valid p-value of the sample ratio at the end of each day")


def _figure(wide: bool) -> tuple[Figure, Any]:
    return figure_of(WIDE_INCHES, left=0.09, right=0.94) if wide else figure_of(NARROW_INCHES, left=0.155, right=0.9)


def _axis(axes: Any, days: Sequence[str]) -> list[Any]:
    """Where the days stand: dates by the calendar, whole numbers by their value."""
    try:
        dates = [dt.date.fromisoformat(day) for day in days]
    except ValueError:
        numbers = [int(day) for day in days]
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("day", color=QUIET)
        return numbers
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=1, maxticks=7, interval_multiples=False))
    axes.xaxis.set_major_formatter(DateFormatter("%-d %b"))
    return dates


def _limits(looks: Sequence[Look]) -> tuple[float, float]:
    """The looks that matter fill the plot: the first ones, of a few sessions, would make the rest a line."""
    last = looks[-1].sessions
    settled = [look.ci for look in looks if look.ci is not None and look.sessions >= _SETTLED * last]
    low, high = min(0.0, *(ci[0] for ci in settled)), max(0.0, *(ci[1] for ci in settled))
    return low - 0.12 * (high - low), high + 0.2 * (high - low)
