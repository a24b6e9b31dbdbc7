"""A sessions file, CSV (also .gz) or Parquet, as arrays.

What the columns are is said in ``schemas.sessions``. They may stand in any order; unknown ones are left alone. A file that can't be
used is refused whole, with file, row, column and value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from experiments.sessions import CONTROL, NO_SEGMENT, TREATMENT, Flags, Ints, Sessions, where
from pipelines.session_columns import Codes, Place, dates_of, days_of, flags_of, ids_of, instants_of, names_of, numbers_of
from pipelines.session_table import Columns
from schemas.errors import ConfigError
from schemas.experiments import CONTROL as CONTROL_NAME

ARMS: Final = (CONTROL_NAME, "treatment")
NO_DAYS: Final = ("all",)
"""The one look at a table that doesn't tell days."""
_ALIKE: Final = 1e-9


class SessionsFile(NamedTuple):
    """What a file holds: the sessions of the two arms, how many rows other arms have, and which columns nobody knows.

    ``probabilities_vary``: within an arm, rows differ in the probability with which they got it.
    """

    sessions: Sessions
    other_arms: Mapping[str, int]
    unknown: tuple[str, ...]
    probabilities_vary: bool


def read_all_sessions(path: str) -> Sessions:
    """All sessions in a file, in order of time, whatever arm they are in and if they are in none; all count as control."""
    columns = Columns(path)
    session = ids_of(columns.take("session_id"), Place(path, "session_id")).codes
    sessions = _sessions(columns, session.astype(np.int64), np.full(len(session), CONTROL, np.int8), path)
    pa.default_memory_pool().release_unused()
    return _ordered(sessions)


def read_sessions_file(path: str, arms: Sequence[str] = ARMS, *, holdout: bool = False) -> SessionsFile:
    """What is in a file; with ``holdout``, only the rows that have it. ``ConfigError`` says what can't be used, and where."""
    columns = Columns(path)
    session = ids_of(columns.take("session_id"), Place(path, "session_id")).codes  # first: nothing else is in memory then
    of_rows, names = names_of(columns.take("arm"), Place(path, "arm"))
    if names and not set(arms) & set(names):
        msg = f"--arms == {','.join(arms)}, must be two of those in {path}: {', '.join(names)}"
        raise ConfigError(msg)
    counts = np.bincount(of_rows, minlength=len(names))
    others = {name: int(count) for name, count in zip(names, counts, strict=True) if name not in arms}
    control, treatment = (of_rows == names.index(arm) if arm in names else np.zeros(len(of_rows), bool) for arm in arms)
    kept = control | treatment
    if holdout:
        flags = columns.take("holdout")
        if flags is None:
            msg = f"{path}: has no column holdout, must have one for --holdout"
            raise ConfigError(msg)
        kept &= flags_of(flags, Place(path, "holdout"), unknown=True) == 1
    sessions = _sessions(columns, session.astype(np.int64), np.where(treatment, TREATMENT, CONTROL).astype(np.int8), path)
    vary = _vary(columns, control & kept, treatment & kept, path)
    pa.default_memory_pool().release_unused()
    return SessionsFile(_ordered(_only(sessions, kept)), others, columns.unknown, vary)


def _sessions(columns: Columns, session: Ints, arm: Any, path: str) -> Sessions:
    """All rows; a column's text is gone before the next is read."""

    def given(name: str, read: Callable[..., Any], **how: Any) -> Any:
        """What a column holds; ``None`` without the column."""
        column = columns.take(name)
        return None if column is None else read(column, Place(path, name), **how)

    user, users = _users(given("user_id", ids_of, optional=True), session)
    started = given("started_at", instants_of)
    nowhen = (np.zeros(len(session), np.int32), NO_DAYS)
    day, days = given("day", days_of) or (nowhen if started is None else dates_of(started))
    nowhere = (np.full(len(session), NO_SEGMENT, np.int32), tuple[str, ...]())
    segment, segments = given("primary_segment", names_of, optional=True) or nowhere
    return Sessions(
        session=session,
        user=user,
        users=users,
        arm=arm,
        segment_count=given("segment_count", numbers_of, whole=True).astype(np.int64),
        segment=segment.astype(np.int64),
        segments=segments,
        day=day.astype(np.int64),
        days=days,
        vehicles=given("vehicles_viewed", numbers_of),
        impressions=given("impressions", numbers_of),
        clicks=given("clicks", numbers_of),
        lead=given("lead", flags_of),
        pre=given("pre_vehicles", numbers_of, unknown=True),
        started=started,
    )


def _users(found: Codes, session: Any) -> tuple[Any, int]:
    """Codes of users; a session of nobody known is a user of its own."""
    user, users = found.codes.astype(np.int64), len(found.names)
    nobody = user < 0
    if nobody.any():
        alone, user[nobody] = np.unique(session[nobody], return_inverse=True)
        user[nobody] += users
        users += len(alone)
    return user, users


def _vary(columns: Columns, control: Flags, treatment: Flags, path: str) -> bool:
    """Whether the rows of an arm differ in the probability of getting it."""
    column = columns.take("arm_probability")
    if column is None:
        return False
    values = numbers_of(column, Place(path, "arm_probability"), unknown=True)
    good = ~(values > 1) & ~(values <= 0)
    if not good.all():
        raise Place(path, "arm_probability").fault(int(np.argmin(good)), float(values[np.argmin(good)]), "above 0 and at most 1")
    known = [values[arm & ~np.isnan(values)] for arm in (control, treatment)]
    return any(len(each) > 0 and float(np.ptp(each)) > _ALIKE for each in known)


def _only(sessions: Sessions, kept: Flags) -> Sessions:
    """The rows that are kept, with only the days and segments that are left."""
    if kept.all():
        return sessions
    left = where(sessions, kept)
    day, days = _left(left.day, left.days)
    segment, segments = _left(left.segment, left.segments)
    return left._replace(day=day, days=days, segment=segment, segments=segments)


def _left(codes: Any, names: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    there = np.bincount(codes[codes >= 0], minlength=len(names)) > 0
    places = np.append(np.cumsum(there) - 1, -1)
    return places[codes], tuple(name for name, is_there in zip(names, there, strict=True) if is_there)


def _ordered(sessions: Sessions) -> Sessions:
    """In order of time, by day where there are no instants; rows of the same time as in the file."""
    times = sessions.day if sessions.started is None else sessions.started
    if (times[1:] >= times[:-1]).all():
        return sessions
    order = np.argsort(times, kind="stable")
    return Sessions._make(each[order] if isinstance(each, np.ndarray) else each for each in sessions)
