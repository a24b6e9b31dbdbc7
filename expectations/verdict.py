"""What the gate says: a finding an expectation, the verdict over all, as a table and as one screen of text."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import pyarrow as pa

from expectations.checks import brief
from schemas.tables import QUALITY

SCREEN_ROWS: Final = 24
SCREEN_COLUMNS: Final = 80
_FINDING_LINES: Final = 3
_FOOTER_LINES: Final = 2  # of each part


class Finding(NamedTuple):
    """One expectation: what it looked at, what it saw (plain JSON; ``None`` when it can't be computed), what that must be."""

    suite: str
    expectation: str
    subject: str
    observed: Any
    bound: str
    success: bool


class Verdict(NamedTuple):
    """What was found on a date; ``passed`` when all of it is as it must be. ``docs`` is the page that shows it."""

    date: str
    passed: bool
    findings: tuple[Finding, ...]
    docs: str | None


def quality_table(verdict: Verdict, override: str | None) -> pa.Table:
    """The findings as rows of the table ``quality``; ``override`` is the reason given for publishing all the same."""
    columns = {
        "date": [verdict.date] * len(verdict.findings),
        **{name: [getattr(finding, name) for finding in verdict.findings] for name in Finding._fields if name != "observed"},
        "observed": [json.dumps(finding.observed, allow_nan=False, sort_keys=True) for finding in verdict.findings],
        "override": [override] * len(verdict.findings),
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in QUALITY}, schema=QUALITY)


def verdict_text(verdict: Verdict, override: str | None) -> str:
    """At most 24 lines of 80 characters: what failed, with value and bound, and how many passed of each suite."""
    failed = [finding for finding in verdict.findings if not finding.success]
    total = len(verdict.findings)
    head = f"quality of {verdict.date}: " + (f"FAILED, {len(failed)} of {total} expectations" if failed else f"passed, all {total}")
    passed = Counter(finding.suite for finding in verdict.findings if finding.success)
    suites = Counter(finding.suite for finding in verdict.findings)
    foot = _wrapped("passed: " + ", ".join(f"{passed[name]} of {count} {name}" for name, count in suites.items()), _FOOTER_LINES)
    if verdict.docs is not None:
        foot += _wrapped(f"Data Docs: {verdict.docs}", _FOOTER_LINES)
    if override is not None:
        foot += _wrapped(f"{'published all the same' if failed else 'override, not needed'}: {override}", _FOOTER_LINES)
    body: list[str] = []
    room = SCREEN_ROWS - 1 - len(foot) - 1  # the last is for "… and more"
    for number, finding in enumerate(failed):
        lines = _finding_lines(finding)
        if len(body) + len(lines) > room:
            body.append(f"… and {len(failed) - number} more")
            break
        body += lines
    return "\n".join([head, *body, *foot])


def shown(observed: Any) -> str:
    """What an expectation saw, as people read it.

    >>> shown(0.123456), shown(None), shown({"unexpected": 2, "of": 8, "examples": [1.5, {"segment": "suv", "tp": -1}]})
    ('0.1235', "can't compute", '2 of 8 (1.5; segment "suv", tp -1)')
    """
    if observed is None:
        return "can't compute"
    if isinstance(observed, Mapping) and "unexpected" in observed and "of" in observed:
        examples = "; ".join(_example(each) for each in observed["examples"])
        return f"{brief(observed['unexpected'])} of {brief(observed['of'])}" + (f" ({examples})" if examples else "")
    if isinstance(observed, int | float) and not isinstance(observed, bool):
        return brief(observed)
    return observed if isinstance(observed, str) and observed.isprintable() and observed.isascii() else json.dumps(observed)


def _example(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_example(each)}" for name, each in value.items())
    return brief(value) if isinstance(value, float) else json.dumps(value)


def _finding_lines(finding: Finding) -> list[str]:
    head = _wrapped(f"{finding.suite} | {finding.subject} | {finding.expectation}", 1)
    return head + _wrapped(f"  {shown(finding.observed)}; must be {finding.bound}", _FINDING_LINES - 1, indent="  ")


def _wrapped(text: str, lines: int, indent: str = "  ") -> list[str]:
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return textwrap.wrap(plain, SCREEN_COLUMNS, subsequent_indent=indent, max_lines=lines, placeholder=" …", break_on_hyphens=False)
