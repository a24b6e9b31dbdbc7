"""What an experiment needs, as tables: what it follows from, and the sessions and days by the effect to find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from rich import box
from rich.table import Table

from experiments.wording import NONE, count_text, percent_text, share_text
from pipelines.console import say, table_console

_FACTS: Final[Mapping[str, Callable[[float], str]]] = {
    "mean": "{:,.4g}".format,
    "sd": "{:,.4g}".format,
    "trigger_rate": share_text,
    "sessions_per_day": "{:,.0f}".format,
    "design_effect": "{:.2f}".format,
}


def show(document: dict[str, Any]) -> None:
    """Print what the sizes follow from, and the sizes."""
    out, sources = table_console(), document["sources"]
    weights = ",".join(f"{weight:g}" for weight in document["weights"])
    judged = f"alpha {document['alpha']:g}, power {document['power']:g}, weights {weights}"
    say(out, f"{document['metric']} by {document['unit']}: {judged}")
    facts = Table(box=box.SIMPLE_HEAD)
    facts.add_column("")
    facts.add_column("value", justify="right")
    facts.add_column("")
    for name, text in _FACTS.items():
        value = document[name]
        facts.add_row(name.replace("_", " "), NONE if value is None else text(value), sources.get(name, "unknown"))
    out.print(facts)
    if document["design_effects"]:
        effects = document["design_effects"].items()
        texts = [f"{unit} {each['reason'] or format(each['factor'], '.2f')}" for unit, each in effects]
        say(out, f"design effect by unit, by A/A replays of the table: {', '.join(texts)}")
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("effect to find", "absolute", "triggered sessions", "all sessions", "days"):
        table.add_column(column, justify="right")
    for row in document["rows"]:
        table.add_row(
            percent_text(row["mde"]),
            f"{row['mde_absolute']:.3g}",
            f"{row['triggered_sessions']:,}",
            f"{row['all_sessions']:,}",
            NONE if row["days"] is None else f"{row['days']:,}",
        )
    out.print(table)
    if planned := document["planned"]:
        days = "" if planned["days"] is None else f", {count_text(planned['days'], 'day')}"
        found = percent_text(float(f"{planned['mde']:.3g}"))
        say(out, f"{planned['planned_sessions']:,} triggered sessions{days}: find an effect of {found}")
    for warning in document["warnings"]:
        say(out, f"note: {warning}")
