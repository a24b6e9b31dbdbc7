"""A backtest's plots as inline SVG: colours are variables of the page around them, text is text, nothing is loaded."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import matplotlib as mpl
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from pipelines.page_plots import INK, NEW, OLD, PAPER, QUIET, SUGGESTED, figure_of, style_of, svg_of
from schemas.backtest import Measured, Segment

SIZE_INCHES: Final = (5.4, 3.6)
LABELLED: Final = (0.2, 0.4, 0.6, 0.8)  # thresholds


def curve_of(segment: Segment) -> str:
    """Precision over recall of each threshold, with the old rule, the new one and the suggested threshold marked."""
    with mpl.rc_context(style_of(f"curve {segment.segment}")):
        figure, axes = figure_of(SIZE_INCHES)
        points = [(point.recall, point.precision, point) for point in segment.sweep if point.precision is not None]
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=QUIET, linewidth=1.5, marker="o", markersize=3.5)
        for recall, precision, point in points:
            if any(abs(point.enter - each) < 1e-9 for each in LABELLED) and recall is not None:
                place = {"xytext": (4, 5), "textcoords": "offset points"}
                axes.annotate(f"{point.enter:.1f}", (recall, precision), color=QUIET, fontsize=8, **place)
        sides = (("old rule", segment.old, OLD, "o", 9), ("new rule", segment.new, NEW, "o", 7))
        for name, side, colour, marker, size in (*sides, ("suggested", segment.suggested, SUGGESTED, "D", 6)):
            if side is not None and side.precision is not None and side.recall is not None:
                _mark(axes, side, colour, marker, size, name, interval=name != "suggested")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, loc="best", fontsize=9, labelcolor=INK, handletextpad=0.4)
        return svg_of(figure, f"Precision over recall of {segment.segment} at each threshold")


def members_of(segment: Segment, first: str) -> str:
    """The members at each day's end under both rules; ``first`` is the first day."""
    with mpl.rc_context(style_of(f"members {segment.segment}")):
        figure, axes = figure_of(SIZE_INCHES, right=0.84)
        start, ends = dt.date.fromisoformat(first), []
        for name, side, colour, style in (("old", segment.old, OLD, "--"), ("new", segment.new, NEW, "-")):
            if side is not None:
                days = [start + dt.timedelta(days=day) for day in range(len(side.members_by_day))]
                axes.plot(days, side.members_by_day, color=colour, linestyle=style, linewidth=2, marker="o", markersize=4)
                ends.append((side.members_by_day[-1], name, colour, days[-1]))
        top = max(max(side.members_by_day) for side in (segment.old, segment.new) if side is not None)
        for (members, name, colour, day), height in zip(sorted(ends, reverse=True), _apart(ends, top), strict=True):
            place = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"{name} {members:,}", (day, height), color=colour, fontweight="bold", **place)
        axes.set_ylim(0, max(1.1 * top, 1))
        axes.set_ylabel("members at the end of the day")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_major_locator(AutoDateLocator(minticks=1, maxticks=6, interval_multiples=False))
        axes.xaxis.set_major_formatter(DateFormatter("%-d %b"))
        axes.margins(x=0.06)
        return svg_of(figure, f"Members of {segment.segment} by day, old rule and new rule")


def _mark(axes: Any, point: Measured, colour: str, marker: str, size: float, name: str, *, interval: bool) -> None:
    assert point.precision is not None
    assert point.recall is not None
    if interval:
        across, along = (
            [[getattr(point, rate) - getattr(point, f"{rate}_low")], [getattr(point, f"{rate}_high") - getattr(point, rate)]]
            for rate in ("recall", "precision")
        )
        axes.errorbar(point.recall, point.precision, along, across, color=colour, linewidth=1.2, zorder=3)
    filled = {"markerfacecolor": PAPER if name.startswith("old") else colour, "markeredgecolor": colour, "markeredgewidth": 2}
    at = f"{name}: enter {point.enter:.2f}"
    axes.plot([point.recall], [point.precision], marker, markersize=size, label=at, zorder=4, **filled)


def _apart(ends: list[tuple[Any, ...]], top: float) -> list[float]:
    """Where the labels go, highest first, so that they don't lie on each other."""
    heights = sorted((float(end[0]) for end in ends), reverse=True)
    gap = 0.08 * max(top, 1)
    if len(heights) == 2 and heights[0] - heights[1] < gap:
        middle = sum(heights) / 2
        heights = [middle + gap / 2, middle - gap / 2]
    return heights
