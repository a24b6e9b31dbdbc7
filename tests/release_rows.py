"""What rows must hold while a candidate is on trial: by the hash's definition and brute-force spans, not by the code under test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

from schemas.profile_row import ProfileRow, encode_cell
from schemas.pseudonym import Pseudonyms, ring_of
from schemas.release import Pointer
from tests.reference import SeenView
from tests.traffic import KEY, RULES, Spans, expected_spans, is_right

ACTIVE, CANDIDATE = 41, 42
CANDIDATE_RULES: Final = RULES.replace("version: 41", "version: 42").replace(
    "{fuel_type: electric}}", "{fuel_type: [electric, hybrid]}, enter: 0.3, exit: 0.2}"
)
PSEUDONYMS: Final = Pseudonyms(ring_of(KEY, "tests"))

Rows = Mapping[str, ProfileRow]  # by raw id


class Expected(NamedTuple):
    """The spans of every user by each version of the rules."""

    views: dict[str, list[SeenView]]
    by_version: dict[int, dict[str, Spans]]


def expected_of(views: dict[str, list[SeenView]]) -> Expected:
    """By brute force, for both versions."""
    return Expected(views, {ACTIVE: expected_spans(views, RULES), CANDIDATE: expected_spans(views, CANDIDATE_RULES)})


def drawn(raw_id: str, pointer: Pointer) -> bool:
    """Whether a user is in the canary: the first 64 bits of SHA-256(salt:pseudonym), as a fraction, below the percentage."""
    digest = hashlib.sha256(f"{pointer.salt}:{PSEUDONYMS(raw_id)}".encode()).hexdigest()
    return int(digest[:16], 16) / 2**64 < pointer.percent / 100


def versions_of(row: ProfileRow) -> tuple[int | None, int | None]:
    """Which rules made what is served, and the shadow."""
    return tuple(each and each.rule_version for each in (row.membership, row.candidate))  # type: ignore[return-value]


def versions_expected(raw_id: str, pointer: Pointer) -> tuple[int, int | None]:
    """The same as it must be."""
    if pointer.candidate is None:
        return pointer.active, None
    return (pointer.candidate, None) if drawn(raw_id, pointer) else (pointer.active, pointer.candidate)


def wrong(rows: Rows, expected: Expected, pointer: Pointer) -> list[str]:
    """The users whose row isn't what the pointer says: by version, and span by span."""
    found = []
    for raw_id, views in expected.views.items():
        row = rows[raw_id]
        served, shadow = versions_expected(raw_id, pointer)
        right = versions_of(row) == (served, shadow) and is_right(row, views, expected.by_version[served][raw_id])
        if right and shadow is not None:
            right = is_right(row._replace(membership=row.candidate), views, expected.by_version[shadow][raw_id])
        if not right:
            found.append(raw_id)
    return found


def answers(rows: Rows, *, shadow: bool) -> dict[str, bytes]:
    """By raw id the bytes of the shadows, or of what is served, in the rows that have them."""
    found = {raw_id: row.candidate if shadow else row.membership for raw_id, row in rows.items()}
    return {raw_id: encode_cell(membership) for raw_id, membership in found.items() if membership is not None}
