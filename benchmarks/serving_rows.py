"""The rows that serving is measured on: users of the simulated marketplace, their views in the row beside what came of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
from google.cloud import bigtable_admin_v2 as admin
from google.cloud.bigtable_admin_v2.services.bigtable_table_admin.transports import BigtableTableAdminGrpcTransport

from pipelines.market import Market, events_of
from rules import CATALOGUE_PATH, RULES_PATH
from schemas.decoding import Attributes, decode_event
from schemas.instants import DAY_MS, MINUTE_MS
from schemas.profile_row import Membership, Profile, ViewCell, decode_row, encode_base, view_cell
from schemas.pseudonym import Pseudonyms
from serving.segments import segments_at
from serving.store import RowUpdate, Store
from transforms.canary import prepared
from transforms.rows import update_of
from transforms.rules_file import load_catalogue, load_release

INSTANCE: Final = "demo/demo"
DRAWN_USERS: Final = 2_000  # as many differ; the others' rows are those of one of them
EVENTS_PER_USER: Final = 40
SPEED_VIEWS: Final = 8  # the newest, in cells of their own; the archive's are one cell
FEATURES: Final = ("electric", "suv", "rule_version", "views", "as_of")
_ROWS_AT_ONCE: Final = 2_000


class DrawnUser(NamedTuple):
    """A user's views, newest first, and the row that they make."""

    cells: list[ViewCell]
    update: RowUpdate
    membership: Membership
    profile: Profile


def user_id(number: int) -> str:
    """The raw id of a user, as shops have them."""
    return f"user-{number:07d}"


def drawn_users(now: int, seed: int = 7) -> list[DrawnUser]:
    """Users after nine days in the marketplace, evaluated by the rules that are shipped."""
    attributes = Attributes(load_catalogue(CATALOGUE_PATH))
    rules = prepared(load_release(RULES_PATH, attributes.catalogue))
    market = Market(DRAWN_USERS * EVENTS_PER_USER, DRAWN_USERS, seed, now - 9 * DAY_MS, now - MINUTE_MS, anonymous=0.0)
    cells: dict[str, list[ViewCell]] = defaultdict(list)
    for emission in events_of(market):
        event = decode_event(emission.data, attributes, None).event
        if event.event_type == "listing_view":
            cells[event.profile_id].append(view_cell(event.event_time, event.event_id, event.packed))
    drawn = []
    for seen in cells.values():
        update = update_of("", sorted(seen), now, rules)
        row = decode_row("", update.membership, update.profile)
        assert row.membership is not None
        assert row.profile is not None
        drawn.append(DrawnUser(sorted(seen), update, row.membership, row.profile))
    return drawn


def fill(store: Store, pseudonym: Pseudonyms, drawn: Sequence[DrawnUser], users: int, say: Callable[[str], None]) -> None:
    """Write every user's views, membership and profile; ``RuntimeError`` when the store refuses one."""
    bases = [encode_base(user.cells[SPEED_VIEWS:]) for user in drawn]
    for page in _pages(users):
        keys = {pseudonym(user_id(number)): number % len(drawn) for number in page}
        refused = store.append([(key, cell) for key, at in keys.items() for cell in drawn[at].cells[:SPEED_VIEWS]]).refused
        refused += store.write_bases([(key, bases[at]) for key, at in keys.items()], drawn[0].update.time)
        refused += store.write_memberships([drawn[at].update._replace(key=key) for key, at in keys.items()])
        if refused:
            msg = f"{len(refused)} rows refused: {refused[0].message}"
            raise RuntimeError(msg)
        if page[-1] + 1 == users or page[0] % 20_000 == 0:
            say(f"{page[-1] + 1:,} of {users:,} rows")


def features_of(user: DrawnUser, now: int) -> dict[str, Any]:
    """The same row as five numbers: the scores of two segments (0 where they don't hold), version, views, newest view (ms UTC)."""
    scores = {segment.name: segment.score for segment in segments_at(user.membership, now)}
    scores_of_two = (scores.get(name, 0.0) for name in FEATURES[:2])
    values = (*scores_of_two, user.membership.rule_version, user.profile.views, user.membership.as_of)
    return dict(zip(FEATURES, values, strict=True))


def write_features(path: Path, drawn: Sequence[DrawnUser], users: int, now: int) -> Path:
    """A Parquet file with a row of features for each user; its path."""
    features = [features_of(user, now) for user in drawn]
    columns = {name: [features[number % len(drawn)][name] for number in range(users)] for name in FEATURES}
    ids = pa.array([user_id(number) for number in range(users)])
    times = pa.array([now] * users, pa.timestamp("ms", "UTC"))
    pq.write_table(pa.table({"user_id": ids, "event_timestamp": times, **columns}), path)
    return path


def facts(drawn: Sequence[DrawnUser], now: int) -> dict[str, Any]:
    """What the rows are like: how many views and segments, and the bytes of the two cells that a read returns."""
    count = len(drawn)
    held = [len(segments_at(user.membership, now)) for user in drawn]
    return {
        "views of a user, mean": round(sum(len(user.cells) for user in drawn) / count, 1),
        "segments of a user, mean": round(sum(held) / count, 2),
        "users in a segment": round(sum(map(bool, held)) / count, 3),
        "bytes of membership and profile, mean": round(
            sum(len(user.update.membership) + len(user.update.profile) for user in drawn) / count
        ),
    }


def _pages(users: int) -> Iterator[range]:
    for start in range(0, users, _ROWS_AT_ONCE):
        yield range(start, min(start + _ROWS_AT_ONCE, users))


def keep_all_cells(emulator: str) -> None:
    """Take the garbage collection rules from every table of the emulator, ours and others'.

    It applies them about once a second, row by row, which stops answers for 60 ms with 100,000 rows. Bigtable does that otherwise.
    """
    channel = grpc.insecure_channel(emulator)
    client = admin.BaseBigtableTableAdminClient(transport=BigtableTableAdminGrpcTransport(channel=channel))
    change = admin.ModifyColumnFamiliesRequest.Modification
    parent = "/".join(f"{kind}/{name}" for kind, name in zip(("projects", "instances"), INSTANCE.split("/"), strict=True))
    for table in client.list_tables(parent=parent):
        families = client.get_table(name=table.name).column_families
        modifications = [change(id=family, update=admin.ColumnFamily()) for family in families]
        client.modify_column_families(name=table.name, modifications=modifications)
        left = [name for name, family in client.get_table(name=table.name).column_families.items() if family.gc_rule]
        if left:
            msg = f"{table.name}: rules of {left} are still there, must be gone"
            raise RuntimeError(msg)
