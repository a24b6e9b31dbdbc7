"""What a store deletes by itself with time: Bigtable by rules of its families, which may have been changed; SQLite nothing."""

from __future__ import annotations

from schemas.profile_row import BASE, GARBAGE_AGE_MS, SPEED
from serving.store.protocol import Store


def collects_by_age(store: Store) -> bool:
    """Whether the store deletes views by their age itself."""
    return not store.uri.startswith("sqlite:")


def families_without_age(store: Store) -> list[str]:
    """The families of views of a Bigtable table whose garbage collection keeps them for longer than it may."""
    if not collects_by_age(store):
        return []
    from serving.store.bigtable_admin import garbage_rules

    rules = garbage_rules(store.uri, *store.uri.removeprefix("bigtable://").split("/"))
    return [name for name in (SPEED, BASE) if name not in rules or not _has_age(rules[name])]


def _has_age(rule: object) -> bool:
    """Whether a rule, or one of those that each suffice, collects what is as old as it may get."""
    age = getattr(rule, "max_age", None)
    if age is not None and 0 < age.total_seconds() * 1000 <= GARBAGE_AGE_MS:
        return True
    return any(map(_has_age, rule.union.rules)) if hasattr(rule, "union") else False
