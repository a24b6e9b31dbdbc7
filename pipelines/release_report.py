"""What a release folder has to tell: its state, its history, and how a candidate compares with what is served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from rich.markup import escape
from rich.table import Table

from schemas.errors import ConfigError
from schemas.instants import format_instant
from schemas.profile_row import Membership, ProfileRow
from schemas.release import Change, Pointer, took_effect
from serving.segments import segments_at
from serving.store import open_store
from transforms.release_train import published_in, version_before

_SECONDS: Final = len("2026-05-01T12:00:00")
WITHOUT_EFFECT: Final = "without effect: killed before it was done"


class State(NamedTuple):
    """What a release folder holds."""

    pointer: Pointer
    history: list[Change]


class Answer(NamedTuple):
    """What a command has to say: as one document, and to a person."""

    document: dict[str, Any]
    text: str | Table


def document_of(change: Change, *, in_effect: bool = True) -> dict[str, Any]:
    """A change as documents show it."""
    return {
        "at": change.at,
        "who": change.who,
        "action": change.action,
        "version": change.version,
        "percent": change.after.percent,
        "why": change.why,
        "force": change.force,
        "active_before": None if change.before is None else change.before.active,
        "active_after": change.after.active,
        "candidate": change.after.candidate,
        "salt": change.after.salt,
        "in_effect": in_effect,
    }


def told(document: dict[str, Any]) -> str:
    """A change in one line."""
    what = f"{document['action']} of version {document['version']}"
    if document["action"] == "canary":
        what += f" at {document['percent']:g} %"
    text = f"{what} by {document['who']} at {document['at']}, active: {document['active_after']}"
    return text if document["in_effect"] else f"{text} ({WITHOUT_EFFECT})"


def status(state: State) -> Answer:
    """What is in use, what could be, and the last change."""
    pointer, before = state.pointer, version_before(*state)
    published, last = published_in(*state), _documents(state)[-1:]
    document = {
        "active": pointer.active,
        "candidate": pointer.candidate,
        "percent": pointer.percent,
        "salt": pointer.salt,
        "before": before,
        "published": published,
        "last": last[0] if last else None,
    }
    lines = [
        f"active     version {pointer.active}" + (f", before it {before}" if before else ""),
        "candidate  " + (f"version {pointer.candidate} for {pointer.percent:g} % of users" if pointer.candidate else "none"),
        f"published  {', '.join(map(str, published))}",
        *(f"last       {told(each)}" for each in last),
    ]
    return Answer(document, "\n".join(lines))


def history(state: State) -> Answer:
    """Every change, oldest first."""
    table = Table()
    for column in ("at", "who", "action", "version", "%", "active", "why"):
        table.add_column(column, justify="right" if column in {"version", "%"} else "left", no_wrap=column == "at")
    documents = _documents(state)
    for each in documents:
        moved = each["active_before"] not in {None, each["active_after"]}
        active = f"{each['active_before']} → {each['active_after']}" if moved else str(each["active_after"])
        why = (each["why"], each["force"] and f"forced: {each['force']}", None if each["in_effect"] else WITHOUT_EFFECT)
        percent = "" if each["candidate"] is None else f"{each['percent']:g}"
        at = each["at"][:_SECONDS].replace("T", " ")
        cells = (at, each["who"], each["action"], str(each["version"]), percent, active, "; ".join(filter(None, why)))
        table.add_row(*map(escape, cells))
    return Answer({"changes": documents}, table)


def compare(pointer: Pointer, store_uri: str, at: int) -> Answer:
    """How the candidate's shadows compare with what is served, at an instant (ms UTC)."""
    if pointer.candidate is None:
        msg = "candidate == none, must be one to compare: forecourt rules canary VERSION --percent 0"
        raise ConfigError(msg)
    store = open_store(store_uri)
    try:
        compared = compared_of(store.scan(), pointer.candidate, at)
    finally:
        store.close()
    table = Table(title=f"version {pointer.candidate} in {compared['compared']} of {compared['rows']} rows", title_justify="left")
    for column in ("segment", "served", "candidate", "enter", "leave"):
        table.add_column(column, justify="left" if column == "segment" else "right")
    for each in compared["segments"]:
        table.add_row(*map(str, each.values()))
    return Answer({"at": format_instant(at), "candidate": pointer.candidate, **compared}, table)


def compared_of(rows: Iterable[ProfileRow], candidate: int, at: int) -> dict[str, Any]:
    """Per segment the members by what is served and by the shadow of a candidate at an instant (ms UTC), and who would change.

    Rows without such a shadow, and those whose newest view is later than the instant, are counted and not compared.
    """
    counts: Counter[str] = Counter()
    segments: dict[str, Counter[str]] = {}
    for row in rows:
        counts["rows"] += 1
        if row.candidate is None or row.candidate.rule_version != candidate:
            continue
        served, shadow = _names_at(row.membership, at), _names_at(row.candidate, at)
        if served is None or shadow is None:
            continue
        counts["compared"] += 1
        counts["changed"] += served != shadow
        for name in served | shadow:
            of = segments.setdefault(name, Counter())
            of.update({"served": name in served, "candidate": name in shadow})
            of.update({"enter": name not in served, "leave": name not in shadow})
    columns = ("served", "candidate", "enter", "leave")
    compared = [{"segment": name, **{column: of[column] for column in columns}} for name, of in sorted(segments.items())]
    return {"rows": counts["rows"], "compared": counts["compared"], "changed": counts["changed"], "segments": compared}


def _names_at(membership: Membership | None, at: int) -> set[str] | None:
    try:
        return {segment.name for segment in segments_at(membership, at)}
    except ConfigError:  # the newest view is later
        return None


def _documents(state: State) -> list[dict[str, Any]]:
    effects = took_effect(state.history, state.pointer)
    return [document_of(change, in_effect=effect) for change, effect in zip(state.history, effects, strict=True)]
