"""False alarms by day as a picture: how they pile up when one looks every day, and that the always-valid ones don't."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from schemas.experiments import Unit

LINES: Final = {
    "peeked_naive": ("naive (Welch), p < 0.05", "#b3432b", "-."),
    "peeked": ("clustered, p < 0.05", "#c98a1b", "--"),
    "always_valid": ("always-valid sequence", "#1f6f8b", "-"),
}
STYLE: Final[Any] = {"svg.fonttype": "none", "svg.hashsalt": "false alarms", "font.family": "sans-serif", "font.size": 10}


def write_plot(path: Path, by_day: Mapping[Unit, Mapping[str, list[float]]], alpha: float) -> Path:
    """By unit and reading, the share of A/A experiments that gave a false alarm up to the end of each day; ``path``."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        panels = figure.subplots(1, len(by_day), sharey=True)
        for axes, (unit, lines) in zip(panels, by_day.items(), strict=True):
            for name, (label, colour, style) in LINES.items():
                days = range(1, len(lines[name]) + 1)
                axes.plot(days, lines[name], style, color=colour, linewidth=2, label=label)
            axes.axhline(alpha, color="#555", linewidth=0.8, linestyle=":")
            axes.set_title(f"{unit}s randomised", loc="left")
            axes.set_xlabel("looked at every day up to day")
            axes.spines[["top", "right"]].set_visible(False)
            axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        panels[0].set_ylim(0, 1.05 * max(max(line) for lines in by_day.values() for line in lines.values()))
        panels[0].set_ylabel("A/A experiments with a false alarm")
        panels[0].legend(frameon=False, loc="upper left", fontsize=9)
        figure.savefig(path, metadata={"Date": None})
    return path
