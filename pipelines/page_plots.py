"""Plots as inline SVG of a page: colours are variables of the page around them, text is text, nothing is loaded."""

from __future__ import annotations

import io
import re
from typing import Any, Final

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# What stands for a variable of the page while matplotlib draws.
INK, QUIET, LINE, OLD, NEW, SUGGESTED, PAPER = (f"#0{number}0f0{number}" for number in range(1, 8))
VARIABLES: Final = {
    INK: "ink",
    QUIET: "quiet",
    LINE: "line",
    OLD: "old",
    NEW: "new",
    SUGGESTED: "suggested",
    PAPER: "paper",
}
_STYLE: Final = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "grid.color": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
}


def style_of(salt: str) -> Any:
    """What a figure is drawn with; another ``salt`` for each figure of a page, so that their ids differ."""
    return {**_STYLE, "svg.hashsalt": salt}


def figure_of(size: tuple[float, float], *, left: float = 0.12, right: float = 0.98) -> tuple[Figure, Any]:
    """An empty figure of a size in inches, and its axes; ``left`` and ``right`` are shares of the width."""
    figure = Figure(figsize=size)
    figure.patch.set_alpha(0)
    axes = figure.add_axes((left, 0.14, right - left, 0.83))
    axes.patch.set_alpha(0)
    axes.grid(linewidth=0.6)
    axes.tick_params(length=0)
    return figure, axes


def svg_of(figure: Figure, label: str) -> str:
    """A figure as part of a page; ``label`` is read out instead of it."""
    sink = io.StringIO()
    FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return inline(sink.getvalue(), label)


def inline(svg: str, label: str) -> str:
    """A figure of matplotlib's as part of a page: no names, no addresses, colours by variable.

    >>> inline('<?xml?><!DOCTYPE x><svg xmlns="http://x" width="9pt" height="9pt"><g id="a"/><path fill="#010f01"/></svg>', "a & b")
    '<svg role="img" aria-label="a &amp; b"><g/><path fill="var(--ink)"/></svg>'
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = re.sub(r"<svg\b([^>]*)>", lambda found: "<svg" + re.sub(r' (?:width|height)="[^"]*"', "", found[1]) + ">", svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"font: ((?:\w+ )*)([\d.]+)px [^;\"]*", r"font: \1\2px var(--font)", svg)
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    escaped = label.replace("&", "&amp;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escaped}"', 1)
