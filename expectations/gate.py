"""The gate: a day's rows are published when everything about the day is as it must be, and not otherwise.

It fails closed. An exception, a column that is missing, a frame without rows, a value that can't be computed: each is a failed
finding that says so. Only where there is honestly nothing to compare to, such as on an archive's first day, does a finding pass
and say that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from expectations.checks import Suite
from expectations.day import day_suite
from expectations.evidence import Evidence
from expectations.metrics import metrics_suite
from expectations.page import write_page
from expectations.rows import rows_suite
from expectations.sample import sample_suite
from expectations.validation import Outcome, validated
from expectations.verdict import Finding, Verdict, quality_table, verdict_text
from schemas.errors import shown
from schemas.quality import Thresholds

__all__ = ["Evidence", "Finding", "Verdict", "judge", "quality_table", "verdict_text"]

_SUITES: Final[dict[str, Callable[[Evidence, Thresholds], Suite]]] = {
    "day": day_suite,
    "sample": sample_suite,
    "metrics": metrics_suite,
    "rows": rows_suite,
}


def judge(evidence: Evidence, thresholds: Thresholds, docs: str | None) -> Verdict:
    """The verdict on a day; the same evidence gives the same one. With ``docs`` a page on it is written into that folder.

    ``ConfigError`` when the folder can't be written.
    """
    names = [name for name in _SUITES if name != "rows" or evidence.rows is not None]
    outcomes = {name: _outcome(name, evidence, thresholds, render=docs is not None) for name in names}
    findings = tuple(finding for outcome in outcomes.values() for finding in outcome.findings)
    verdict = Verdict(evidence.date, all(finding.success for finding in findings), findings, None)
    if docs is None:
        return verdict
    return verdict._replace(docs=write_page(docs, verdict, {name: outcome.page for name, outcome in outcomes.items()}))


def _outcome(name: str, evidence: Evidence, thresholds: Thresholds, *, render: bool) -> Outcome:
    ran = Finding(name, "the suite ran", name, None, "without an exception", success=False)
    try:
        outcome = validated(_SUITES[name](evidence, thresholds), render=render)
    except Exception as error:  # noqa: BLE001  fails closed, whatever it is
        return Outcome((ran._replace(observed=f"{type(error).__name__}: {shown(str(error), 200)}"),), "")
    return outcome if outcome.findings else Outcome((ran._replace(observed="no expectations"),), outcome.page)
