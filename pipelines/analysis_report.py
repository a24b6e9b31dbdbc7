"""What ``forecourt experiment analyse`` prints for people: who was in it, whether the sample is sound, then the effects, if any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.console import WIDE_COLUMNS, table_console

_SHARES: Final = frozenset({"ctr", "lead"})


def show(document: Mapping[str, Any], out: Console | None = None) -> None:
    """Print the document. Of an experiment that must not be read no effect is printed, only why."""
    out = out or table_console()
    out.print(_population(document))
    out.print(srm_table(document["srm"]))
    if document["readable"]:
        _show_effects(document, out)
    else:
        out.print("must not be read, so no effect is shown:", style="bold red")
        for reason in document["reasons"]:
            out.print(Text(f"- {reason}"), soft_wrap=True)
        out.print("the numbers are in --json under withheld")
    for warning in document["warnings"]:
        out.print(Text(f"note: {warning}"), soft_wrap=True)


def srm_table(srm: Mapping[str, Any]) -> Table:
    """The units by arm, and the p-values that they fell so by the weights."""
    table = Table(title=f"sample ratio, by {srm['unit']}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in (f"{srm['unit']}s", "control", "treatment", "p", "p, always valid"):
        table.add_column(column, justify="right" if table.columns else "left")
    for which in ("all", "triggered"):
        counts = srm[which]
        table.add_row(
            which, f"{counts['control']:,}", f"{counts['treatment']:,}", p_text(counts["p"]), p_text(counts["sequential_p"])
        )
    return table


def p_text(p: float | None) -> str:
    """A p-value as people read it.

    >>> p_text(0.04321), p_text(1e-9), p_text(None)
    ('0.043', '<0.0001', '–')
    """
    if p is None:
        return "–"
    return "<0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _population(document: Mapping[str, Any]) -> Text:
    population = document["population"]
    everyone, core = sum(population["all"].values()), sum(population["triggered"].values())
    rate = "" if population["trigger_rate"] is None else f" ({population['trigger_rate']:.1%})"
    name = "" if document["experiment"] is None else f"{document['experiment']}: "
    told = f"{name}{everyone:,} sessions of {population['users']:,} users, {core:,} triggered{rate}"
    left_out = [
        f"{population['copies']:,} copies of rows" if population["copies"] else "",
        f"{population['dropped_sessions']:,} sessions of {population['units_in_both_arms']:,} {document['unit']}s in both arms"
        if population["units_in_both_arms"]
        else "",
    ]
    return Text("; left out: ".join(filter(None, [told, " and ".join(filter(None, left_out))])))


def _show_effects(document: Mapping[str, Any], out: Console) -> None:
    level = f"{1 - document['alpha']:.0%}"
    wide = out.width >= WIDE_COLUMNS
    out.print(_metrics(document, level, wide=wide))
    _show_reasons(document["metrics"], document["warnings"], out)
    primary, sequential = document["metrics"]["vehicles_viewed"], document["sequential"]
    if sequential["ci"] is not None:
        looks = f"{sequential['looks']} look{'' if sequential['looks'] == 1 else 's'}"
        out.print(
            f"always valid ({looks}): effect on vehicles_viewed {_number(primary['effect'], sign=True)}, {level} "
            f"{_interval(sequential['ci'])}, p {p_text(sequential['p'])}",
            highlight=False,
            soft_wrap=True,
        )
    _show_cuped(document["cuped"], level, out)
    for each in document["guardrails"]:
        verdict = {None: each["reason"], True: "passed", False: "not passed"}[each["passed"]]
        out.print(f"guardrail: {each['metric']} loses less than {each['margin']:.0%}: {verdict} (p {p_text(each['p'])})")
    if document["segments"]:
        out.print(_segments(document, level, wide=wide))
        _show_reasons(document["segments"], document["warnings"], out)
        interaction = document["interaction"]
        told = interaction["reason"] if interaction["p"] is None else f"p {p_text(interaction['p'])}"
        out.print(f"effects differ between segments: {told}", soft_wrap=True)


def _show_cuped(cuped: Mapping[str, Any], level: str, out: Console) -> None:
    if cuped["p"] is None:
        return
    narrower = "" if cuped["variance_ratio"] is None else f", variance × {cuped['variance_ratio']:.2f}"
    out.print(
        f"adjusted by what was known before (CUPED): {_number(cuped['effect'], sign=True)}, {level} {_interval(cuped['ci'])}, "
        f"p {p_text(cuped['p'])}{narrower}",
        highlight=False,
        soft_wrap=True,
    )


def _metrics(document: Mapping[str, Any], level: str, *, wide: bool) -> Table:
    columns = [
        "metric",
        "control",
        "treatment",
        "effect",
        level,
        "p",
        "p, naive",
        *(["relative", "in all sessions"] if wide else []),
    ]
    table = _table("triggered sessions, errors clustered by user", columns, level)
    for name, each in document["metrics"].items():
        share = name in _SHARES
        told = each["p"] is not None  # before the planned end the interval doesn't hold either
        cells = [
            name,
            _number(each["control"], share=share),
            _number(each["treatment"], share=share),
            _number(each["effect"], share=share, sign=True),
            _interval(each["ci"], share=share) if told else "–",
            p_text(each["p"]),
            p_text(each["naive"]["p"]),
            _relative(each["rel"]),
            _number(each["diluted"]["effect"], share=share, sign=True),
        ]
        table.add_row(*cells[: len(columns)])
    return table


def _segments(document: Mapping[str, Any], level: str, *, wide: bool) -> Table:
    early = all(each["p"] is None for each in document["segments"].values())
    ci, p = ("ci_sequential", "p_sequential") if early else ("ci", "p_holm")
    columns = ["segment", "sessions", "control", "treatment", "effect", level, "p" if early else "p, Holm", "action"]
    columns += ["relative"] if wide else []
    table = _table("segments: effect on vehicles_viewed" + (", always valid" if early else ""), columns, level)
    for name, each in document["segments"].items():
        cells = [
            Text(name),
            f"{each['sessions']:,}",
            _number(each["control"]),
            _number(each["treatment"]),
            _number(each["effect"], sign=True),
            _interval(each[ci]),
            p_text(each[p]),
            each["action"],
            _relative(each["rel"]),
        ]
        table.add_row(*cells[: len(columns)])
    return table


def _show_reasons(parts: Mapping[str, Mapping[str, Any]], warnings: Sequence[str], out: Console) -> None:
    """Why numbers are missing, each reason once; what the warnings say anyway isn't repeated."""
    names: dict[str, list[str]] = {}
    for name, part in parts.items():
        if part["reason"] and not any(warning.startswith(part["reason"]) for warning in warnings):
            names.setdefault(part["reason"], []).append(name)
    for reason, of in names.items():
        out.print(Text(f"{', '.join(of)}: {reason}"), soft_wrap=True)


def _table(title: str, columns: Sequence[str], level: str) -> Table:
    """Only intervals are broken where the screen is narrow."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        left = column in {"metric", "segment", "action"}
        table.add_column(column, justify="left" if left else "right", no_wrap=column != level, overflow="fold")
    return table


def _relative(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1%}"


def _number(value: float | None, *, share: bool = False, sign: bool = False) -> str:
    if value is None:
        return "–"
    return format(value, "+.2%" if share else "+.3f") if sign else format(value, ".2%" if share else ".3f")


def _interval(interval: list[float] | None, *, share: bool = False) -> str:
    if interval is None:
        return "–"
    return " to ".join(_number(each, share=share, sign=True) for each in interval)
