"""What ``forecourt experiment analyse`` prints for people: who was in it, whether the sample is sound, then the effects, if any."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.metrics import SHARES
from experiments.wording import change_text, count_text, interval_text, level_text, number_text, p_text, percent_text, share_text
from pipelines.console import WIDE_COLUMNS, say, table_console

_ROOMY_COLUMNS: Final = 100


def show(document: Mapping[str, Any], out: Console | None = None) -> None:
    """Print the document. Of an experiment that must not be read no effect is printed, only why."""
    out = out or table_console()
    say(out, _population(document))
    out.print(srm_table(document["srm"]))
    if document["readable"]:
        _show_effects(document, out)
    else:
        out.print("must not be read, so no effect is shown:", style="bold red")
        for reason in document["reasons"]:
            say(out, f"- {reason}")
        say(out, "the numbers are in --json under withheld")
    for warning in document["warnings"]:
        say(out, f"note: {warning}")


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


def _population(document: Mapping[str, Any]) -> str:
    population = document["population"]
    everyone, core = sum(population["all"].values()), sum(population["triggered"].values())
    rate = "" if population["trigger_rate"] is None else f" ({share_text(population['trigger_rate'])})"
    name = "" if document["experiment"] is None else f"{document['experiment']}: "
    told = f"{name}{everyone:,} sessions of {population['users']:,} users, {core:,} triggered{rate}"
    left_out = [
        f"{population['copies']:,} copies of rows" if population["copies"] else "",
        f"{population['dropped_sessions']:,} sessions of {population['units_in_both_arms']:,} {document['unit']}s in both arms"
        if population["units_in_both_arms"]
        else "",
    ]
    return "; left out: ".join(filter(None, [told, " and ".join(filter(None, left_out))]))


def _show_effects(document: Mapping[str, Any], out: Console) -> None:
    level = level_text(document["alpha"])
    wide, roomy = out.width >= WIDE_COLUMNS, out.width >= _ROOMY_COLUMNS
    out.print(_metrics(document, level, wide=wide, roomy=roomy))
    _show_reasons(document["metrics"], document["warnings"], out)
    primary, sequential = document["metrics"]["vehicles_viewed"], document["sequential"]
    if sequential["ci"] is None:
        say(out, f"always valid: {sequential['reason']}")
    else:
        looks = count_text(sequential["looks"], "look")
        say(
            out,
            f"always valid ({looks}): effect on vehicles_viewed {number_text(primary['effect'], primary['se'], sign=True)}, "
            f"{level} {interval_text(sequential['ci'], primary['se'])}, p {p_text(sequential['p'])}",
        )
    _show_cuped(document["cuped"], level, out)
    for each in document["guardrails"]:
        verdict = {None: each["reason"], True: "passed", False: "not passed"}[each["passed"]]
        say(out, f"guardrail: {each['metric']} loses less than {percent_text(each['margin'])}: {verdict} (p {p_text(each['p'])})")
    if document["segments"]:
        out.print(_segments(document, level, wide=wide, roomy=roomy))
        _show_reasons(document["segments"], document["warnings"], out)
        interaction = document["interaction"]
        told = interaction["reason"] if interaction["p"] is None else f"p {p_text(interaction['p'])}"
        say(out, f"effects differ between segments: {told}")


def _show_cuped(cuped: Mapping[str, Any], level: str, out: Console) -> None:
    if cuped["p"] is None:
        return
    narrower = "" if cuped["variance_ratio"] is None else f", variance × {cuped['variance_ratio']:.2f}"
    say(
        out,
        f"adjusted by what was known before (CUPED): {number_text(cuped['effect'], cuped['se'], sign=True)}, {level} "
        f"{interval_text(cuped['ci'], cuped['se'])}, p {p_text(cuped['p'])}{narrower}",
    )


def _metrics(document: Mapping[str, Any], level: str, *, wide: bool, roomy: bool) -> Table:
    columns = [
        "metric",
        "control",
        "treatment",
        "effect",
        level,
        "p",
        "p, naive",
        *(["relative", "all sessions"] if wide else []),
    ]
    table = _table("triggered sessions, errors clustered by user", columns, level, roomy=roomy)
    for name, each in document["metrics"].items():
        number = functools.partial(number_text, share=name in SHARES)
        diluted = each["diluted"]
        told = each["p"] is not None  # before the planned end the interval doesn't hold either
        cells = [
            name,
            number(each["control"], each["se"]),
            number(each["treatment"], each["se"]),
            number(each["effect"], each["se"], sign=True),
            interval_text(each["ci"] if told else None, each["se"], share=name in SHARES),
            p_text(each["p"]),
            p_text(each["naive"]["p"]),
            change_text(each["rel"]),
            number(diluted["effect"], diluted["se"], sign=True),
        ]
        table.add_row(*cells[: len(columns)])
    return table


def _segments(document: Mapping[str, Any], level: str, *, wide: bool, roomy: bool) -> Table:
    early = all(each["p"] is None for each in document["segments"].values())
    ci = "ci_sequential" if early else "ci"
    columns = ["segment", "sessions", "control", "treatment", "effect", level, "p, Holm", "action"]
    columns += ["relative"] if wide else []
    table = _table("segments: effect on vehicles_viewed" + (", always valid" if early else ""), columns, level, roomy=roomy)
    for name, each in document["segments"].items():
        cells = [
            Text(name),
            f"{each['sessions']:,}",
            number_text(each["control"], each["se"]),
            number_text(each["treatment"], each["se"]),
            number_text(each["effect"], each["se"], sign=True),
            interval_text(each[ci], each["se"]),
            p_text(each["p_action"]),
            each["action"],
            change_text(each["rel"]),
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
        say(out, f"{', '.join(of)}: {reason}")


def _table(title: str, columns: Sequence[str], level: str, *, roomy: bool) -> Table:
    """Only intervals and names of segments are broken where the screen is narrow."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, int(roomy), 0, 0))
    for column in columns:
        left = column in {"metric", "segment", "action"}
        least = {level: len("+0.00 to"), "segment": len("segment")}.get(column)
        table.add_column(column, justify="left" if left else "right", no_wrap=least is None, min_width=least, overflow="fold")
    return table
