"""The bounds of the quality gate: their type, and the parser that says file, place, value and what would be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from schemas import safe_yaml
from schemas.safe_yaml import Node


class Thresholds(NamedTuple):
    """What the gate lets pass. Shares, drops and rises are fractions of one; rules/quality.yaml says why each is what it is.

    Counts of a day against the trailing week: ``volume_drop`` and ``volume_rise`` for events and views, ``users_drop`` and
    ``users_rise`` for users. A week whose days spread by more than ``spread_free`` (1.48 times the median absolute deviation of
    their logarithms) widens the band by ``spread_factor`` times the excess. Counting noise is allowed ``noise_sigmas`` standard
    deviations. Shares of the rows of views: ``null_share`` at most, and ``null_rise`` over the week's; the attributes in
    ``sparse`` are spared the first; ``unknown_share``; ``mix_shift`` is total variation above what chance makes. Shares of the
    rows: ``duplicate_share``, ``misfiled_share``; of those received: ``late_share``, ``future_share``. Of the rows to be
    published: ``empty_share``, and ``cell_bytes`` for the largest cell.
    """

    volume_drop: float = 0.15
    volume_rise: float = 0.5
    users_drop: float = 0.2
    users_rise: float = 0.5
    spread_free: float = 0.12
    spread_factor: float = 4.0
    noise_sigmas: float = 3.0
    null_share: float = 0.4
    null_rise: float = 0.05
    sparse: frozenset[str] = frozenset()
    unknown_share: float = 0.01
    mix_shift: float = 0.15
    duplicate_share: float = 0.05
    late_share: float = 0.1
    future_share: float = 0.001
    misfiled_share: float = 0.0
    empty_share: float = 0.99
    cell_bytes: int = 1 << 20


def parse_thresholds(text: str | bytes, name: str) -> Thresholds:
    """The thresholds in a YAML text, a key left out at its default; ``RulesError`` names file, place, value and what must be.

    >>> parse_thresholds("{volume_drop: 0.3}", "quality.yaml").volume_drop
    0.3
    """
    root = safe_yaml.load(text, name)
    if not isinstance(root.value, dict):
        path = "thresholds"
        raise root.fault(path, f"must be a mapping with the keys {', '.join(_FIELDS)}")
    for key, node in root.value.items():
        if key not in _FIELDS:
            raise node.fault(key, f"must be absent: the keys are {', '.join(_FIELDS)}")
    return Thresholds(**{key: _FIELDS[key](node, key) for key, node in root.value.items()})


def _between(low: float, high: float) -> Callable[[Node, str], float]:
    def parse(node: Node, key: str) -> float:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float) or not low <= node.value <= high:
            raise node.fault(key, f"must be a number between {low:g} and {high:g}")
        return float(node.value)

    return parse


def _bytes(node: Node, key: str) -> int:
    if isinstance(node.value, bool) or not isinstance(node.value, int) or not 1 <= node.value <= _MAX_CELL_BYTES:
        raise node.fault(key, f"must be a whole number of bytes between 1 and {_MAX_CELL_BYTES}")
    return node.value


def _names(node: Node, key: str) -> frozenset[str]:
    if not isinstance(node.value, list):
        raise node.fault(key, "must be a list of attributes")
    names = []
    for index, item in enumerate(node.value):
        if not isinstance(item.value, str):
            path = f"{key}[{index}]"
            raise item.fault(path, "must be the name of an attribute")
        names.append(item.value)
    return frozenset(names)


_MAX_CELL_BYTES: Final = 100 << 20  # Bigtable's limit
_SHARE: Final = _between(0, 1)
_DROP: Final = _between(0.01, 0.99)
_RISE: Final = _between(0.01, 100)
_FIELDS: Final[dict[str, Callable[[Node, str], Any]]] = {
    "volume_drop": _DROP,
    "volume_rise": _RISE,
    "users_drop": _DROP,
    "users_rise": _RISE,
    "spread_free": _between(0, 10),
    "spread_factor": _between(0, 100),
    "noise_sigmas": _between(0, 10),
    "null_share": _SHARE,
    "null_rise": _SHARE,
    "sparse": _names,
    "unknown_share": _SHARE,
    "mix_shift": _SHARE,
    "duplicate_share": _SHARE,
    "late_share": _SHARE,
    "future_share": _SHARE,
    "misfiled_share": _SHARE,
    "empty_share": _SHARE,
    "cell_bytes": _bytes,
}
