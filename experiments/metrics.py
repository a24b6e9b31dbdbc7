"""The metrics of an experiment in its sessions: of each, the columns that are added up and divided."""

from __future__ import annotations

from typing import Final, NamedTuple

from experiments.sessions import Floats, Sessions
from experiments.settings import PRIMARY

SHARES: Final = frozenset({"ctr", "lead"})
"""The metrics that are told in per cent."""


class MetricColumns(NamedTuple):
    """A metric of sessions, ``Σx / Σd``: arrays of shape (n,), ``d`` is ``None`` for a mean."""

    x: Floats
    d: Floats | None = None


def columns_of(sessions: Sessions, metric: str) -> MetricColumns | str:
    """The columns of one of ``settings.METRICS``, or which of them the table doesn't have."""
    if metric == PRIMARY:
        return MetricColumns(sessions.vehicles)
    if metric == "lead":
        return "the table has no lead" if sessions.lead is None else MetricColumns(sessions.lead)
    if sessions.clicks is None or sessions.impressions is None:
        return f"the table has no {'clicks' if sessions.clicks is None else 'impressions'}"
    return MetricColumns(sessions.clicks, sessions.impressions)
