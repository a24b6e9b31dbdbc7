"""The segments at an instant: from the spans alone, clamped by the clocks' skew, refused further back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

import forecourt
from schemas.errors import ConfigError
from schemas.identity import Link, Said
from schemas.instants import format_instant
from schemas.profile_row import (
    MAX_CLOCK_SKEW_MS,
    Emptied,
    Membership,
    Profile,
    SegmentSpans,
    Span,
    consent_cell,
    encode_cell,
    link_cell,
)
from schemas.pseudonym import Pseudonyms, ring_of
from serving.keys import KEY_VARIABLE
from serving.segments import Segment, segments_at, segments_document
from serving.store import RowUpdate, open_store
from tests.strategies import START

# as_of   +10       +20       +30       +40
# |=== suv ========|          |== suv ==|
# |=== bev ==================|
# |        |= van =|
ROW = Membership(
    7,
    START,
    [
        SegmentSpans("suv", [Span(START, START + 20, 0.5, 8, 4), Span(START + 30, START + 40, 0.6, 5, 3)]),
        SegmentSpans("bev", [Span(START, START + 30, 0.5, 8, 4)]),
        SegmentSpans("van", [Span(START + 10, START + 20, 0.9, 7, 6)]),
    ],
)


@pytest.mark.parametrize(
    ("after", "names"),
    [
        (-MAX_CLOCK_SKEW_MS, ["bev", "suv"]),  # clocks differ: as at as_of
        (-1, ["bev", "suv"]),
        (0, ["bev", "suv"]),  # equal scores: by name
        (9, ["bev", "suv"]),
        (10, ["van", "bev", "suv"]),  # highest score first
        (19, ["van", "bev", "suv"]),
        (20, ["bev"]),
        (29, ["bev"]),
        (30, ["suv"]),
        (39, ["suv"]),
        (40, []),
        (10**12, []),
    ],
)
def test_a_span_holds_from_its_start_until_just_before_its_end(after: int, names: list[str]) -> None:
    assert [segment.name for segment in segments_at(ROW, START + after)] == names


def test_a_segment_has_the_numbers_of_the_span_that_holds() -> None:
    assert segments_at(ROW, START + 35) == [Segment("suv", 0.6, 5, 3, START + 40)]


def test_further_back_than_clocks_differ_the_row_cannot_tell() -> None:
    at = START - MAX_CLOCK_SKEW_MS - 1
    message = f"at == {format_instant(at)}, must not be before the row's newest view at {format_instant(START)}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        segments_at(ROW, at)


def test_a_user_without_a_row_is_in_no_segment_at_any_time() -> None:
    assert segments_at(None, 0) == []
    nobody: dict[str, Any] = {"user": "u1", "at": "1970-01-01T00:00:00.000Z", "as_of": None, "rule_version": None, "segments": []}
    assert segments_document("u1", None, 0) == nobody


def test_the_document_has_what_the_command_line_promises() -> None:
    until = "2026-01-01T00:00:00.040Z"
    assert segments_document("u1", ROW, START + 35) == {
        "user": "u1",
        "at": "2026-01-01T00:00:00.035Z",
        "as_of": "2026-01-01T00:00:00.000Z",
        "rule_version": 7,
        "segments": [{"name": "suv", "score": 0.6, "views": 5, "matching": 3, "until": until}],
    }


KEYS = "2:the second key, long enough\n1:the first key, long enough"
NOBODY: dict[str, Any] = {"as_of": None, "rule_version": None, "segments": []}


def test_the_command_answers_by_either_id_under_every_key_and_of_who_opted_out_tells_nothing(
    sqlite_store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEYS)
    new, old = Pseudonyms(ring_of(KEYS, "tests")), Pseudonyms(ring_of(KEYS.splitlines()[1], "tests"))
    store = open_store(sqlite_store_uri)
    store.init()
    profile = encode_cell(Profile(1, START, {}))
    rows = [(new("ann"), ROW), (old("bob"), ROW), (old("dee"), ROW)]
    store.write_memberships([RowUpdate(key, 1, encode_cell(row), profile, 0) for key, row in rows])
    store.write_memberships([RowUpdate(old("browser"), 1, encode_cell(Emptied("alias")), b"", 0)])
    store.write_memberships([RowUpdate(new("eli"), 1, encode_cell(Emptied("opted_out")), b"", 0)])
    link = Link(START, "e1", old("ann"), "identify", old.seal("ann"))  # the row of its user has been moved since
    store.write_identity([(old("browser"), link_cell(link)), (new("cat"), consent_cell(Said(START, opted_out=True)))])
    users = ["ann", "browser", "bob", "cat", "dee", "eli", "nobody"]
    command = ["segments", "-", "--store", sqlite_store_uri, "--at", format_instant(START + 35)]
    told = [json.loads(line) for line in CliRunner().invoke(forecourt.app, command, input="\n".join(users)).stdout.splitlines()]
    known = segments_document("ann", ROW, START + 35)
    for document, user in zip(told, users, strict=True):
        assert document == known | {"user": user} | (NOBODY if user in {"cat", "eli", "nobody"} else {})
    said = CliRunner().invoke(forecourt.app, ["segments", "cat", "--store", sqlite_store_uri]).stdout
    assert said == "cat: opted out\n"
