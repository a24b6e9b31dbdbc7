"""The sessions table as what a bandit learns from: arms of any names and number, with the probability of each session's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from experiments.off_policy import LEAST_PROBABILITY
from experiments.rewards import Rewards
from experiments.sessions import Flags, Floats, Ints
from pipelines.session_columns import Place, flags_of, ids_of, instants_of, names_of, numbers_of
from pipelines.session_table import Columns
from schemas.errors import ConfigError
from schemas.experiment import Metric

_ALWAYS: Final = ("session_id", "user_id", "started_at", "arm", "segment_count", "primary_segment", "arm_probability")
_NEEDED: Final[Mapping[Metric, tuple[str, ...]]] = {
    "clicks": ("impressions", "clicks"),
    "vehicles_viewed": ("vehicles_viewed",),
    "lead": ("lead",),
}


class ArmsFile(NamedTuple):
    """What is in a file: the rewards of triggered sessions, and what was left out of them.

    ``copies`` are rows beyond the first of a session and arm, ``mixed`` the sessions in several arms, of which the first counts.
    ``logged``: how many of the sessions have a probability in the file; the others' is that of the weights.
    """

    rewards: Rewards
    copies: int
    mixed: int
    other_arms: dict[str, int]
    logged: int


def read_arms(path: str, metric: Metric, arms: Sequence[str] | None, weights: Sequence[float] | None) -> ArmsFile:
    """The rewards in a file for some arms, by default all that it has, by name; ``weights`` of these, by default even.

    ``ConfigError`` names file, row, column and value of what can't be used.
    """
    source = Columns(path)
    columns = {name: column for name in (*_ALWAYS, *_NEEDED[metric]) if (column := source.take(name)) is not None}
    for name in _NEEDED[metric]:
        if name not in columns:
            msg = f"{path}: has no column {name}, must have {' and '.join(_NEEDED[metric])} for --metric {metric}"
            raise ConfigError(msg)
    of_rows, there = names_of(columns["arm"], Place(path, "arm"))
    chosen = tuple(there if arms is None else arms)
    _check_arms(path, chosen, there, weights)
    code_of = np.array([*(chosen.index(name) if name in chosen else -1 for name in there), -1])
    arm = np.asarray(code_of[of_rows], np.int64)
    session = ids_of(columns["session_id"], Place(path, "session_id")).codes.astype(np.int64)
    kept, copies, mixed = _screened(session, arm, _order(columns, path))
    kept &= numbers_of(columns["segment_count"], Place(path, "segment_count"), whole=True) > 0
    segment, segments = np.full(len(session), -1, np.int32), tuple[str, ...]()
    if "primary_segment" in columns:
        segment, segments = names_of(columns["primary_segment"], Place(path, "primary_segment"), optional=True)
    x, d = _metric(columns, metric, path)
    probability, logged = _probability(columns, arm, _shares(weights, len(chosen)), path)
    rewards = Rewards(
        x, d, _users(columns, session, path), arm, chosen, segment.astype(np.int64), segments, probability, metric
    ).where(kept)
    counts = np.bincount(of_rows, minlength=len(there))
    others = {name: int(count) for name, count in zip(there, counts, strict=True) if name not in chosen}
    return ArmsFile(rewards, copies, mixed, others, int((logged & kept).sum()))


def _check_arms(path: str, chosen: Sequence[str], there: Sequence[str], weights: Sequence[float] | None) -> None:
    if len(chosen) < 2:
        msg = f"{path}: its arms are {', '.join(there) or 'none'}, must be at least 2; --arms names others"
        raise ConfigError(msg)
    if not set(chosen) & set(there):
        msg = f"--arms == {','.join(chosen)}, must be some of those in {path}: {', '.join(there) or 'there are none'}"
        raise ConfigError(msg)
    if weights is not None and len(weights) != len(chosen):
        msg = f"--weights has {len(weights)}, must be one for each of the {len(chosen)} arms: {', '.join(chosen)}"
        raise ConfigError(msg)


def _screened(session: Ints, arm: Ints, order: Ints | None) -> tuple[Flags, int, int]:
    """The rows that count, the first of each session; how many are copies; how many sessions are in several arms.

    An allocation goes by the visitor's segments, which change, so a session in several arms is no fault. Its first arm counts, with
    the probability of that; to leave such sessions out would be to choose by what came after.
    """
    rows = np.arange(len(session)) if order is None else order
    rows = rows[arm[rows] >= 0]
    _, firsts = np.unique(session[rows], return_index=True)
    arms = int(arm.max(initial=0)) + 1
    pairs = np.unique(session[rows] * arms + arm[rows])
    _, of_session = np.unique(pairs // arms, return_counts=True)
    kept = np.zeros(len(session), bool)
    kept[rows[firsts]] = True
    return kept, len(rows) - len(pairs), int((of_session > 1).sum())


def _order(columns: Mapping[str, Any], path: str) -> Ints | None:
    """The rows in order of time; ``None`` as they stand."""
    if "started_at" not in columns:
        return None
    return np.argsort(instants_of(columns["started_at"], Place(path, "started_at")), kind="stable")


def _metric(columns: Mapping[str, Any], metric: Metric, path: str) -> tuple[Floats, Floats]:
    if metric == "clicks":
        clicks, impressions = (numbers_of(columns[name], Place(path, name)) for name in ("clicks", "impressions"))
        if (clicks > impressions).any():
            row = int(np.argmax(clicks > impressions))
            raise Place(path, "clicks").fault(row, float(clicks[row]), f"at most the row's impressions, {impressions[row]:g}")
        return clicks, impressions
    place = Place(path, metric)
    x = flags_of(columns[metric], place) if metric == "lead" else numbers_of(columns[metric], place)
    return x, np.ones(len(x))


def _users(columns: Mapping[str, Any], session: Ints, path: str) -> Ints:
    """Codes of users; a session of nobody known is a user of its own."""
    found = ids_of(columns["user_id"], Place(path, "user_id"), optional=True)
    return np.where(found.codes < 0, len(found.names) + session, found.codes).astype(np.int64)


def _shares(weights: Sequence[float] | None, arms: int) -> Floats:
    found = np.ones(arms) if weights is None else np.asarray(weights, np.float64)
    return np.asarray(found / found.sum(), np.float64)


def _probability(columns: Mapping[str, Any], arm: Ints, shares: Floats, path: str) -> tuple[Floats, Flags]:
    """The probability of each row's own arm, and whether the file has it."""
    if "arm_probability" not in columns:
        return shares[arm], np.zeros(len(arm), bool)
    place = Place(path, "arm_probability")
    values = numbers_of(columns["arm_probability"], place, unknown=True)
    logged = ~np.isnan(values)
    bad = logged & ~((values >= LEAST_PROBABILITY) & (values <= 1))
    if bad.any():
        row = int(np.argmax(bad))
        raise place.fault(row, float(values[row]), f"from {LEAST_PROBABILITY:g} to 1")
    return np.where(logged, values, shares[arm]), logged
