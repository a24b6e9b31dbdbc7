"""The Data Docs of a verdict: one page that needs nothing from elsewhere and runs nothing.

Great Expectations' own pages fetch scripts, styles and a dated logo from half a dozen hosts each time somebody opens one. So its
renderers make the parts of the suites, and the page around them is ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Final

from expectations.verdict import Finding, Verdict, shown
from schemas.errors import ConfigError

_STYLE: Final = """
body { font: 14px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 2px solid #ccc }
h5 { font-size: 1rem; margin: 1.2rem 0 .3rem } h6 { font-size: .9rem; margin: .6rem 0 .2rem }
table { border-collapse: collapse; width: 100%; margin: .3rem 0 } td, th { border: 1px solid #ddd; padding: .25rem .5rem }
td, th { text-align: left; vertical-align: top; overflow-wrap: break-word }
th { background: #f4f4f4; white-space: nowrap } pre, p { margin: 0 }
.failed { color: #b00020; font-weight: 600 } .passed { color: #1b6e2e; font-weight: 600 }
i.fa-check-circle::before { content: "passed"; color: #1b6e2e; font-style: normal }
i.fa-times::before { content: "failed"; color: #b00020; font-style: normal; font-weight: 600 }
i.fa-exclamation-triangle::before { content: "exception"; color: #b00020; font-style: normal; font-weight: 600 }
.collapse, [data-toggle="collapse"] { display: none }
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def write_page(folder: str, verdict: Verdict, pages: Mapping[str, str]) -> str:
    """The path of ``index.html``, written into the folder whole or not at all; ``pages`` are the parts of the suites, as HTML."""
    path = Path(folder) / "index.html"
    unfinished = path.with_suffix(".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(page_of(verdict, pages), encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        msg = f"docs == {folder}, must be a folder that can be written: {error.strerror}"
        raise ConfigError(msg) from error
    return str(path)


def page_of(verdict: Verdict, pages: Mapping[str, str]) -> str:
    """The page: what failed first, then every suite as Great Expectations renders it."""
    failed = [finding for finding in verdict.findings if not finding.success]
    title = f"Quality of {verdict.date}"
    state = "passed" if verdict.passed else "failed"
    head = f'<h1>{escape(title)}: <span class="{state}">{state}</span></h1>'
    count = f"<p>{len(verdict.findings) - len(failed)} of {len(verdict.findings)} expectations are met.</p>"
    parts = [f"<h2>Suite: {escape(name)}</h2>\n{page}" for name, page in pages.items()]
    meta = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    body = "\n".join([head, count, _table(failed) if failed else "", *parts])
    first = f"<!DOCTYPE html>\n<html lang=en><head>{meta}<title>{escape(title)}</title><style>{_STYLE}</style></head>"
    return f"{first}\n<body>\n{body}\n</body></html>\n"


def _table(findings: list[Finding]) -> str:
    header = "".join(f"<th>{name}</th>" for name in ("Suite", "Subject", "Expectation", "Value", "Must be"))
    rows = [(finding.suite, finding.subject, finding.expectation, shown(finding.observed), finding.bound) for finding in findings]
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{header}</tr></thead><tbody>\n{body}\n</tbody></table>"
