"""The settings of the gateway: what an operator tunes, from one YAML file, and their defaults."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from schemas import fields, safe_yaml
from schemas.safe_yaml import Node


class Settings(NamedTuple):
    """``policy``: for whom no experiment says another. ``conflict_sample``: the share of impressions whose conflicts are kept.

    ``cache_ttl_ms``: for how long a row is not read again, so how long a view may take to show. ``layer``: of the experiments.
    """

    policy: str = "highest_score"
    layer: str = "featured"
    deadline_ms: int = 50
    cache_ttl_ms: int = 2_000
    cache_rows: int = 100_000
    max_reads: int = 4
    max_waiting: int = 256
    conflict_sample: float = 0.1


def parse_settings(text: str | bytes, name: str, policies: Collection[str]) -> Settings:
    """The settings in a YAML text; ``RulesError`` names file, place, value and what would be right.

    >>> parse_settings("deadline_ms: 30", "serving.yaml", ["highest_score"]).deadline_ms
    30
    """
    root = safe_yaml.load(text, name)
    settings = Settings(**fields.values_of(root, "settings", _FIELDS))
    if settings.policy not in policies:
        node = fields.child_of(root, "policy")
        raise fields.fault(node, "settings.policy", f"must be one of {', '.join(sorted(policies))}")
    return settings


def _within(least: int, most: int) -> Callable[[Node, str], int]:
    def parse(node: Node, path: str) -> int:
        if isinstance(node.value, bool) or not isinstance(node.value, int) or not least <= node.value <= most:
            raise fields.fault(node, path, f"must be a whole number from {least} to {most}")
        return node.value

    return parse


_FIELDS: Final = {
    "policy": fields.Field(fields.name, Settings().policy),
    "layer": fields.Field(fields.name, Settings().layer),
    "deadline_ms": fields.Field(_within(1, 1_000), Settings().deadline_ms),
    "cache_ttl_ms": fields.Field(_within(0, 60_000), Settings().cache_ttl_ms),
    "cache_rows": fields.Field(_within(1, 10_000_000), Settings().cache_rows),
    "max_reads": fields.Field(_within(1, 16), Settings().max_reads),
    "max_waiting": fields.Field(_within(1, 10_000), Settings().max_waiting),
    "conflict_sample": fields.Field(fields.share, Settings().conflict_sample),
}
