"""A backtest as one HTML page with its plots in it: nothing is loaded from elsewhere, and it reads in the dark and on a phone."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Final, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipelines.backtest_plots import curve_of, members_of
from pipelines.backtest_report import (
    NONE,
    beta_text,
    change_texts,
    direction,
    goal_text,
    interval_text,
    marks_of,
    number_text,
    share_text,
    short,
)
from schemas.backtest import COURSES, BacktestReport, Difference, Segment

TEMPLATE: Final = Path(__file__).with_name("backtest_page.html.j2")


def page_of(report: BacktestReport) -> str:
    """The page as text."""
    loader = FileSystemLoader(TEMPLATE.parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": share_text, "interval": interval_text, "number": number_text, "short": short}
    return environment.get_template(TEMPLATE.name).render(
        report=report,
        period=period_text(report.first, report.last),
        counts=count_texts(report.segments),
        different=[each for each in report.segments if each.difference != "unchanged"],
        unchanged=[each for each in report.segments if each.difference == "unchanged"],
        courses=COURSES,
        dash=NONE,
        goal=goal_text(report.goal),
        beta=beta_text(report.goal),
        sides=lambda segment: (segment.old, segment.new) if segment.difference != "unchanged" else (segment.new,),
        changes=change_texts,
        direction=direction,
        marks=marks_of,
        curve=lambda segment: Markup(curve_of(segment)),
        members=lambda segment: Markup(members_of(segment, report.first)),
    )


def count_texts(segments: list[Segment]) -> list[str]:
    """How many segments differ, by how; those that changed first, also if none did.

    >>> count_texts([])
    ['0 changed']
    """
    counted = [(kind, sum(each.difference == kind for each in segments)) for kind in get_args(Difference)]
    return [f"{number:,} {kind}" for kind, number in counted if number or kind == "changed"]


def period_text(first: str, last: str) -> str:
    """Two dates as people write them.

    >>> period_text("2026-05-13", "2026-05-19"), period_text("2026-05-13", "2026-05-13"), period_text("2025-12-30", "2026-01-02")
    ('13 – 19 May 2026', '13 May 2026', '30 December 2025 – 2 January 2026')
    """
    start, end = (dt.date.fromisoformat(date) for date in (first, last))
    ending = f"{end.day} {end:%B %Y}"
    if start == end:
        return ending
    if start.year != end.year:
        return f"{start.day} {start:%B %Y} – {ending}"
    return f"{start.day} – {ending}" if start.month == end.month else f"{start.day} {start:%B} – {ending}"
