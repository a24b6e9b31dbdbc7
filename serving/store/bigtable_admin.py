"""The table in Bigtable: made with its families and their garbage collection, where they are missing."""

from __future__ import annotations

import os
from typing import Any, Final

import grpc
from google.api_core import exceptions as api

from schemas.profile_row import BASE, FAMILIES, GARBAGE_AGE_MS, SPEED
from serving.store.bigtable_faults import EMULATOR, translated_faults

ADMIN_DEADLINE_S: Final = 30.0


def create_missing(uri: str, project: str, instance: str, table: str) -> list[str]:
    """What was created; ``uri`` is for the messages of faults."""
    from google.cloud import bigtable_admin_v2 as admin
    from google.protobuf.duration_pb2 import Duration

    client = _client()
    parent = f"projects/{project}/instances/{instance}"
    age = admin.GcRule(max_age=Duration(seconds=GARBAGE_AGE_MS // 1000))
    newest = admin.GcRule(max_num_versions=1)
    rules = {SPEED: age, BASE: admin.GcRule(union=admin.GcRule.Union(rules=[newest, age]))}
    families = {name: admin.ColumnFamily(gc_rule=rules.get(name, newest)) for name in FAMILIES}
    created: list[str] = []
    # retry=None: the admin client would go on for a minute, whatever the timeout of one attempt.
    with translated_faults(uri, ADMIN_DEADLINE_S):
        try:
            client.create_table(parent=parent, table_id=table, table=admin.Table(), retry=None, timeout=ADMIN_DEADLINE_S)
            created.append(f"table {table}")
        except api.AlreadyExists:
            pass
        name = f"{parent}/tables/{table}"
        have = set(client.get_table(name=name, retry=None, timeout=ADMIN_DEADLINE_S).column_families)
        change = admin.ModifyColumnFamiliesRequest.Modification
        missing = [change(id=family, create=rule) for family, rule in families.items() if family not in have]
        if missing:
            client.modify_column_families(name=name, modifications=missing, retry=None, timeout=ADMIN_DEADLINE_S)
            created += [f"family {modification.id}" for modification in missing]
    return created


def garbage_rules(uri: str, project: str, instance: str, table: str) -> dict[str, Any]:
    """The rule of garbage collection of each family there is (google.cloud.bigtable_admin_v2.GcRule)."""
    with translated_faults(uri, ADMIN_DEADLINE_S):
        name = f"projects/{project}/instances/{instance}/tables/{table}"
        found = _client().get_table(name=name, retry=None, timeout=ADMIN_DEADLINE_S).column_families
    return {family: each.gc_rule for family, each in found.items()}


def _client() -> Any:
    from google.cloud import bigtable_admin_v2 as admin
    from google.cloud.bigtable_admin_v2.services.bigtable_table_admin.transports import BigtableTableAdminGrpcTransport

    emulator = os.environ.get(EMULATOR)
    transport = BigtableTableAdminGrpcTransport(channel=grpc.insecure_channel(emulator)) if emulator else None
    return admin.BaseBigtableTableAdminClient(transport=transport)
