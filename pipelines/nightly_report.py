"""What a night leaves to be read: its tables of parity and volume, its JSON document, and the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from expectations.gate import Verdict, verdict_text
from schemas.day_profile import DayProfile
from schemas.tables import PARITY, PEOPLE, VOLUME
from transforms.parity import AGREE, OUTCOMES

_WIDE_COLUMNS: Final = 110


def parity_table(date: str, outcomes: Mapping[str, int]) -> pa.Table:
    """A row an outcome, also those that nobody had; without users when nothing was compared."""
    compared = sum(outcomes.values())
    rows = [
        {
            "date": date,
            "outcome": name,
            "users": outcomes.get(name, 0),
            "share": outcomes.get(name, 0) / compared if compared else None,
        }
        for name in OUTCOMES
    ]
    return pa.Table.from_pylist(rows, schema=PARITY)


def volume_table(profiles: Sequence[DayProfile]) -> pa.Table:
    """A row a date that was profiled."""
    rows = [{**profile._asdict(), "duplicates": profile.duplicates} for profile in profiles]
    return pa.Table.from_pylist([{name: row[name] for name in VOLUME.names} for row in rows], schema=VOLUME)


def people_table(date: str, counts: Mapping[str, int]) -> pa.Table:
    """The one row of who was known to be whom at the end of the day."""
    return pa.Table.from_pylist([{"date": date, **{name: counts.get(name, 0) for name in PEOPLE.names[1:]}}], schema=PEOPLE)


def verdict_document(verdict: Verdict, override: str | None) -> dict[str, Any]:
    """What ``--json`` prints of a verdict: the findings that failed, and the reason for publishing all the same."""
    failed = [finding._asdict() for finding in verdict.findings if not finding.success]
    return {
        "passed": verdict.passed,
        "expectations": len(verdict.findings),
        "failed": failed,
        "override": override,
        "docs": verdict.docs,
    }


def show(document: Mapping[str, Any], verdict: Verdict, override: str | None) -> None:
    """Print a night: metrics, withdrawals, verdict, parity, what was published."""
    out = Console()
    table = Table(title=f"{document['date']}, rules version {document['rule_version']}", title_justify="left")
    table.add_column("segment")
    for column in ("precision", "recall", "lift", "members", "entered", "left", "flips/member"):
        table.add_column(column, justify="right")
    for row in document["segments"]:
        name = row["segment"] + (" (withdrawn)" if row["withdrawn"] else "")
        rates = (_rate(row, "precision", out.width), _rate(row, "recall", out.width), _number(row["lift"]))
        users = (f"{row['members']:,}", f"{row['entered']:,}", f"{row['left']:,}")
        table.add_row(name, *rates, *users, _number(row["flips_per_member"]))
    out.print(table)
    for row in document["segments"]:
        if row["withdrawn"]:
            out.print(f"{row['segment']} is withdrawn: {row['withdrawn_why']}", soft_wrap=True)
    out.print(verdict_text(verdict, override), soft_wrap=True, highlight=False, markup=False)
    if document["parity"]:
        agree, compared = document["parity"].get(AGREE, 0), sum(document["parity"].values())
        others = ", ".join(f"{number:,} {name}" for name, number in document["parity"].items() if name != AGREE)
        out.print(f"parity: {agree:,} of {compared:,} rows agree" + (f"; {others}" if others else ""))
    people = document["people"]
    out.print(
        f"people: {people['links']:,} linked ids; {people['conflicts']:,} ids seen with other users too; "
        f"{people['opted_out']:,} have opted out"
    )
    if document["published"] is not None:
        out.print(f"{document['published']:,} rows published")
    elif not verdict.passed and override is None:
        out.print("nothing was published: the last good rows and metrics stay")
    out.print(f"{document['events']:,} events of the day, {document['seconds']:.1f} s")


def _rate(row: Mapping[str, Any], name: str, width: int) -> str:
    """A rate, with its interval where the screen is wide enough."""
    if row[name] is None:
        return "–"
    interval = f" ({row[f'{name}_low']:.2f}–{row[f'{name}_high']:.2f})" if width >= _WIDE_COLUMNS else ""
    return f"{row[name]:.3f}{interval}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
