"""A backtest as tables: old → new for every segment, then the sweep and the matrix of those that differ, and who changes most."""

from __future__ import annotations

import json
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.backtest import COURSES, BacktestReport, Goal, Measured, Mover, Segment, Side

NONE: Final = "–"
SHOWN_DIGITS: Final = 12  # of a pseudonym


def print_report(report: BacktestReport, page: str | None) -> None:
    """Print it; ``page`` is where the page with plots was written."""
    out = Console(highlight=False)
    out.print(f"{report.first} to {report.last}, rules version {report.old.version} → {report.new.version}")
    out.print(summary_table(report))
    out.print("▲ ▼ the 95 % intervals don't overlap; suggested: to enter, and its precision / recall")
    for segment in report.segments:
        if segment.difference in {"changed", "new"}:
            out.print(f"{segment.segment}: " + "; ".join([*change_texts(segment), "the new rule with other thresholds"]))
            out.print(sweep_table(segment, report.goal))
        if segment.difference != "unchanged":
            out.print(f"{segment.segment}: users over the days, by the old rule ↓ and the new rule →")
            out.print(matrix_table(segment))
    if report.changed_most:
        out.print("users whose segments change most: + in by the new rules alone, - by the old ones alone")
        out.print(movers_table(report.changed_most))
    for what, path in (("page with plots", page), ("recorded", report.record)):
        if path is not None:
            out.print(f"{what}: {path}", soft_wrap=True, markup=False)
    out.print(
        f"{report.users_changed:,} of {report.users:,} users change segments; {report.events:,} events, {report.seconds:.1f} s"
    )


def summary_table(report: BacktestReport) -> Table:
    """A row a segment; arrows say where old and new differ by more than their intervals."""
    table = _table()
    table.add_column("segment", overflow="fold")
    for column in ("precision (95 %)", "recall (95 %)", "members", "flips per\nmember-day", f"suggested\n{goal_text(report.goal)}"):
        table.add_column(column, justify="right")
    for each in report.segments:
        table.add_row(
            each.segment if each.difference == "unchanged" else f"{each.segment}\n({each.difference})",
            _rates(each, "precision"),
            _rates(each, "recall"),
            _members(each),
            _arrow(number_text(each.old), number_text(each.new)),
            _suggestion(each),
        )
    return table


def sweep_table(segment: Segment, goal: Goal) -> Table:
    """A row a threshold of the new rule."""
    table = _table()
    for column in ("enter", "exit", "precision (95 %)", "recall (95 %)", beta_text(goal), "members", "flips per\nmember-day"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for point in segment.sweep:
        table.add_row(
            f"{point.enter:.2f}",
            f"{point.exit:.2f}",
            share_text(point, "precision"),
            share_text(point, "recall"),
            NONE if point.f_beta is None else f"{point.f_beta:.3f}",
            f"{point.members:,}",
            number_text(point),
            ", ".join(marks_of(segment, point)),
        )
    return table


def matrix_table(segment: Segment) -> Table:
    """Users by what they did under the old rule (rows) and under the new one."""
    table = _table()
    table.add_column("")
    for course in COURSES:
        table.add_column(course.replace("_", " "), justify="right")
    for old in COURSES:
        table.add_row(old.replace("_", " "), *(f"{segment.matrix[old][new]:,}" for new in COURSES))
    return table


def movers_table(movers: list[Mover]) -> Table:
    """A row a user, the pseudonym cut short."""
    table = _table()
    table.add_column("user")
    table.add_column("segments", overflow="fold")
    for mover in movers:
        changes = [*(f"+{name}" for name in mover.gained), *(f"-{name}" for name in mover.lost)]
        table.add_row(short(mover.user), " ".join(changes))
    return table


def change_texts(segment: Segment) -> list[str]:
    """What differs between the two rules."""
    return [f"{key} {_yaml(old)} → {_yaml(new)}" for key, (old, new) in segment.changes.items()]


def marks_of(segment: Segment, point: Measured) -> list[str]:
    """What a threshold of a sweep is: the new rule's own, the suggested one."""
    sides = (("new", segment.new), ("suggested", segment.suggested))
    return [name for name, side in sides if side is not None and abs(side.enter - point.enter) < 1e-9]


def goal_text(goal: Goal) -> str:
    """What the suggested threshold is the best at.

    >>> goal_text(Goal(wanted_precision=0.8)), goal_text(Goal(beta=0.5))
    ('precision ≥ 0.8', 'best F0.5')
    """
    return f"best {beta_text(goal)}" if goal.wanted_precision is None else f"precision ≥ {goal.wanted_precision:g}"


def beta_text(goal: Goal) -> str:
    """The name of the F-beta."""
    return f"F{goal.beta:g}"


def share_text(point: Measured, name: str) -> str:
    """A share with its interval."""
    share, interval = getattr(point, name), interval_text(point, name)
    return NONE if share is None else f"{share:.3f} {interval}"


def interval_text(point: Measured, name: str) -> str:
    """The interval of a share; empty without one."""
    low, high = getattr(point, f"{name}_low"), getattr(point, f"{name}_high")
    return "" if low is None else f"({low:.2f}–{high:.2f})"


def direction(segment: Segment, name: str) -> int:
    """1 where the new share is greater than the old one by more than their intervals, -1 where it is smaller, else 0."""
    if segment.old is None or segment.new is None:
        return 0
    (old_low, old_high), (low, high) = (
        (getattr(side, f"{name}_low"), getattr(side, f"{name}_high")) for side in (segment.old, segment.new)
    )
    if old_low is None or low is None:
        return 0
    return int(low > old_high) - int(high < old_low)


def number_text(point: Measured | Side | None) -> str:
    """The flips per member-day."""
    return NONE if point is None or point.flips_per_member_day is None else f"{point.flips_per_member_day:.2f}"


def short(user: str) -> str:
    """The beginning of a pseudonym.

    >>> short("1:0123456789abcdef")
    '1:0123456789ab…'
    """
    version, _, digits = user.partition(":")
    return f"{version}:{digits[:SHOWN_DIGITS]}…"


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD)


def _rates(segment: Segment, name: str) -> Text:
    old, new = segment.old, segment.new
    shares = [NONE if side is None or (share := getattr(side, name)) is None else f"{share:.3f}" for side in (old, new)]
    intervals = dict.fromkeys("" if side is None else interval_text(side, name) for side in (old, new))
    mark = {1: " ▲", -1: " ▼", 0: ""}[direction(segment, name)]
    return Text("\n".join([_arrow(*shares) + mark, *filter(None, intervals)]))


def _members(segment: Segment) -> str:
    counts = [NONE if side is None else f"{side.members:,}" for side in (segment.old, segment.new)]
    gained, lost = segment.overlap.only_new, segment.overlap.only_old
    return _arrow(*counts) + (f"\n+{gained:,} -{lost:,}" if gained or lost else "")


def _suggestion(segment: Segment) -> str:
    point = segment.suggested
    if point is None:
        return NONE
    return f"{point.enter:.2f}\n{_share(point.precision)} / {_share(point.recall)}"


def _yaml(value: Any) -> str:
    return json.dumps(value).replace('"', "")


def _arrow(old: str, new: str) -> str:
    return old if old == new else f"{old} → {new}"


def _share(share: float | None) -> str:
    return NONE if share is None else f"{share:.2f}"
