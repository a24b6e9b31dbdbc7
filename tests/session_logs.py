"""Exposure logs for tests, and the sessions table by brute force: plain loops over all events, straight from its description."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from schemas.exposure import Click, Exposure, Offer
from schemas.instants import DAY_MS, date_of, parse_date
from schemas.sessions import SCHEMA
from transforms.session_files import ORDER
from transforms.session_found import Plan, chosen_of, found_in, found_together, session_shards
from transforms.session_rows import Row, table_of
from transforms.session_slices import EVENTS, cut_by
from transforms.sessions import make_rows, use_events


class Logged(NamedTuple):
    """An event as the archive has it: the columns of ``EVENTS``."""

    event_id: str
    event_type: str
    event_time: int
    user: str
    session_id: str | None = None
    listing_id: str | None = None
    experiment: str | None = None


def exposure(impression: str, arm: str | None = "control", **more: Any) -> Exposure:
    """An exposure of version 1 of the experiment ``first``, with two segments."""
    fields: dict[str, Any] = {
        "impression_id": impression,
        "experiment": "first",
        "version": 1,
        "arm": arm,
        "reason": "assigned",
        "unit": "s1",
        "unit_kind": "session",
        "session": "s1",
        "policy": "combined",
        "shown": arm != "control",
        "triggered": True,
        "differs": True,
        "position": 1,
        "k": 1,
        "rung": "single_segment",
        "segment": "electric",
        "probability": 1.0,
        "sponsored": False,
        "segments": (Offer("suv", 0.71), Offer("electric", 0.55)),
    }
    return Exposure(**(fields | more))


def click(impression: str, **more: Any) -> Click:
    """A click on an impression of version 1 of ``first``."""
    fields: dict[str, Any] = {"impression_id": impression, "experiment": "first", "version": 1, "arm": "control", "position": 1}
    return Click(**(fields | more))


def text_of(body: Exposure | Click) -> str:
    """The body as the archive keeps it."""
    return json.dumps(msgspec.to_builtins(body), sort_keys=True)


def table_of_events(events: Iterable[Logged]) -> pa.Table:
    """The events as ``read_session_events`` gives them."""
    columns = list(zip(*events, strict=True)) or [()] * len(EVENTS)
    return pa.table([pa.array(list(column), field.type) for column, field in zip(columns, EVENTS, strict=True)], schema=EVENTS)


def exposure_by_hand(event: Logged) -> dict[str, Any] | None:
    """The exposure of an event as a dict, ``None`` where it is none; by the standard library and one field alone."""
    body = json.loads(event.experiment) if event.experiment else None
    return body if isinstance(body, dict) and isinstance(body.get("segments"), list) else None


def rows_by_hand(
    log: Iterable[Logged], first: str, last: str, version: int = 1, starts: int | None = None
) -> tuple[list[Row], Counter[str]]:
    """The table's rows, in order of time, session and arm, and what became of the exposures."""
    events: list[Logged] = []
    for event in log:
        copies = [other for other in log if (other.user, other.event_id) == (event.user, event.event_id)]
        best = min(copies, key=lambda each: (each[2], each[1], *((text is None, text or "") for text in each[4:])))
        if best not in events:
            events.append(best)
    impressions = {event: exposure_by_hand(event) for event in events if event.event_type == "featured_impression"}
    assigned = [
        (each.event_time, body)
        for each in log
        if each.event_type == "featured_impression"
        and (body := exposure_by_hand(each)) is not None
        and body["experiment"] == "first"
        and body["reason"] == "assigned"
        and each.event_time < parse_date(last) + DAY_MS
    ]
    start = min(time for time, _ in assigned) if starts is None else starts
    of_version = [body for _, body in assigned if body["version"] == version]
    by_highest = len({body["policy"] for body in of_version}) > 1 or any(body["arm_probability"] for body in of_version)
    uses: Counter[str] = Counter()
    ours: dict[tuple[str, str], list[tuple[Logged, dict[str, Any]]]] = {}
    for event, body in impressions.items():
        if body is None:
            uses["unreadable"] += 1
        elif body["experiment"] not in (None, "first"):
            uses["other_experiments"] += 1
        elif body["experiment"] == "first" and body["version"] != version:
            uses["other_versions"] += 1
        elif body["reason"] != "assigned":
            uses["not_assigned"] += 1
        elif event.session_id is None:
            uses["without_session"] += 1
        elif event.event_time < start:
            uses["before_start"] += 1
        else:
            ours.setdefault((event.session_id, body["arm"]), []).append((event, body))
    rows = []
    for (session, arm), shown in ours.items():
        shown.sort(key=lambda pair: (pair[0].event_time, pair[0].event_id))
        event, body = shown[0]
        if not first <= date_of(event.event_time) <= last:
            uses["other_dates"] += len(shown)
            continue
        uses["in_table"] += len(shown)
        users = {each.user for each, _ in shown}
        since = [
            each
            for each in events
            if each.session_id == session
            and each.event_time >= event.event_time
            and (body["unit_kind"] == "session" or each.user in users)
        ]
        at_first = next((each for _, each in shown if each["position"] == 1), body)
        segment = at_first["segment"]
        if (segment is None or by_highest) and at_first["segments"]:
            segment = sorted(at_first["segments"], key=lambda offer: (-offer["score"], offer["name"]))[0]["name"]
        clicked = [
            json.loads(each.experiment or "")["impression_id"]
            for each in events
            if each.event_type == "featured_click" and each.session_id == session
        ]
        before = [each for each in events if each.user == event.user and each.session_id and each.event_time < start]
        sessions = {each.session_id for each in before}
        seen = {(each.session_id, each.listing_id) for each in before if each.event_type == "listing_view" and each.listing_id}
        rows.append(
            Row(
                session,
                event.user,
                event.event_time,
                date_of(event.event_time),
                arm,
                len(body["segments"]) + body["segments_dropped"],
                segment,
                len({each.listing_id for each in since if each.event_type == "listing_view" and each.listing_id}),
                len(shown),
                sum(each.event_id in clicked for each, _ in shown),
                float(any(each.event_type == "lead" for each in since)),
                len(seen) / len(sessions) if sessions else None,
                body["policy"],
                body["arm_probability"],
                body["holdout"],
            )
        )
    return sorted(rows, key=lambda row: (row.started_at, row.session_id, row.arm)), uses


def made(log: Sequence[Logged], plan: Plan, batches: int = 1) -> tuple[list[Row], Counter[str]]:
    """The table and the counts, the way of the pipeline but without Beam; the log in so many parts."""
    parts = [table_of_events(log[place::batches]) for place in range(batches)]
    found = found_together(found_in(part, plan) for part in parts)
    chosen = chosen_of(plan, found)
    assert chosen is not None
    counts: Counter[str] = Counter()
    by_user: dict[int, list[pa.Table]] = {}
    by_session: dict[int, list[pa.Table]] = {}
    for part in parts:
        for shard, piece in cut_by(part, "user", plan.shards):
            by_user.setdefault(shard, []).append(piece)
    for pieces in by_user.values():
        used, more = use_events(pa.concat_tables(pieces), plan, chosen, found.sessions)
        counts.update(more)
        for shard, piece in cut_by(used, "session_id", session_shards(plan, found, chosen)):
            by_session.setdefault(shard, []).append(piece)
    tables = [table_of([])]
    for pieces in by_session.values():
        table, more = make_rows(pa.concat_tables(pieces), plan, chosen)
        counts.update(more)
        tables.append(table)
    whole = pa.concat_tables(tables).sort_by(ORDER)
    millis = whole["started_at"].cast(pa.int64())
    rows = whole.set_column(SCHEMA.get_field_index("started_at"), "started_at", millis).to_pylist()
    return [Row(**row) for row in rows], counts
