"""One feature view of five features for each user in a Parquet file, into Feast's online store.

    python fill.py ROWS.parquet       in the environment of requirements.txt, in a copy of this folder

The file has columns user_id, event_timestamp (UTC) and the five features. Written through Feast's own API, in batches.
"""

# mypy: ignore-errors
from __future__ import annotations

import sys

import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

BATCH = 20_000
FEATURES = {"electric": Float64, "suv": Float64, "rule_version": Int64, "views": Int64, "as_of": Int64}


def main(path: str) -> None:
    """Define the view and fill it."""
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="segments",
        entities=[user],
        ttl=None,
        schema=[Field(name=name, dtype=dtype) for name, dtype in FEATURES.items()],
        source=FileSource(name="rows", path=path, timestamp_field="event_timestamp"),
        online=True,
    )
    store = FeatureStore(repo_path=".")
    store.apply([user, view, FeatureService(name="segments", features=[view])])
    for batch in pq.ParquetFile(path).iter_batches(BATCH):
        store.write_to_online_store("segments", batch.to_pandas())
        print(batch.num_rows, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
