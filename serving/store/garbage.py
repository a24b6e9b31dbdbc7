"""What a store deletes by itself with time: Bigtable by rules of its families, which may have been changed; SQLite nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import grpc

from schemas.profile_row import BASE, GARBAGE_AGE_MS, SPEED
from serving.store.protocol import Store

if TYPE_CHECKING:
    from serving.store.bigtable import BigtableStore


def collects_by_age(store: Store) -> bool:
    """Whether the store deletes views by their age itself."""
    return not store.uri.startswith("sqlite:")


def families_without_age(store: Store) -> list[str]:
    """The families of views of a Bigtable table whose garbage collection keeps them for longer than it may."""
    if not collects_by_age(store):
        return []
    from serving.store.bigtable import BigtableStore

    assert isinstance(store, BigtableStore)
    return _in_bigtable(store)


def _in_bigtable(store: BigtableStore) -> list[str]:
    from google.cloud import bigtable_admin_v2 as admin
    from google.cloud.bigtable_admin_v2.services.bigtable_table_admin.transports import BigtableTableAdminGrpcTransport

    from serving.store.bigtable import ADMIN_DEADLINE_S, EMULATOR, translated_faults

    emulator = os.environ.get(EMULATOR)
    transport = BigtableTableAdminGrpcTransport(channel=grpc.insecure_channel(emulator)) if emulator else None
    client = admin.BaseBigtableTableAdminClient(transport=transport)
    project, instance, table = store.uri.removeprefix("bigtable://").split("/")
    with translated_faults(store.uri, ADMIN_DEADLINE_S):
        found = client.get_table(
            name=f"projects/{project}/instances/{instance}/tables/{table}", retry=None, timeout=ADMIN_DEADLINE_S
        ).column_families
    return [name for name in (SPEED, BASE) if name not in found or not _has_age(found[name].gc_rule)]


def _has_age(rule: object) -> bool:
    """Whether a rule, or one of those that each suffice, collects what is as old as it may get."""
    age = getattr(rule, "max_age", None)
    if age is not None and 0 < age.total_seconds() * 1000 <= GARBAGE_AGE_MS:
        return True
    return any(map(_has_age, rule.union.rules)) if hasattr(rule, "union") else False
