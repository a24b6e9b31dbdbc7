"""Feast's feature server on the same Bigtable emulator, five features of a user: what the gateway is measured beside.

An environment of its own, Feast's own Bigtable store, filled through Feast's own API. Doubts go in its favour: the settings its
tuning guide gives (no access log, registry in memory for five minutes, one feature view), workers are never recycled, features are
named in the request as a feature service is slower, and its rows hold nothing but the five features.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.environments import environment, versions
from benchmarks.http_load import HOST, post
from benchmarks.servers import Server, free_port, serving
from benchmarks.serving_rows import FEATURES

FOLDER: Final = Path(__file__).parent / "feast"
SETTINGS: Final = ("--no-access-log", "--max-requests", "0", "--registry_ttl_sec", "300", "--worker-connections", "1000")
_PATH: Final = "/get-online-features"
_LOG_TAIL_LINES: Final = 20

Say = Callable[[str], None]


class FeastError(RuntimeError):
    """Feast can't be filled, or answers something else than what was written."""


def programs(say: Say) -> Path:
    """The folder of Feast's programs."""
    return environment("feast", FOLDER / "requirements.txt", say)


def pinned_versions(found: Path) -> dict[str, str]:
    """The versions of what the requirements name."""
    lines = [line for line in (FOLDER / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    names = [line.partition("==")[0].partition("[")[0] for line in lines]
    installed = versions(found)
    return {name: installed[name] for name in names}


def fill(found: Path, folder: Path, rows: Path, environ: Mapping[str, str], say: Say) -> None:
    """Define the feature view in a folder and write all rows of a Parquet file to the online store."""
    for name in ("feature_store.yaml", "fill.py"):
        shutil.copy(FOLDER / name, folder)
    process = subprocess.Popen(
        [str(found / "python"), "fill.py", str(rows)],
        cwd=folder,
        env=os.environ | dict(environ),
        stdout=subprocess.PIPE,
        stderr=(folder / "fill.log").open("w"),
        text=True,
    )
    assert process.stdout is not None
    written = 0
    for line in process.stdout:
        written += int(line)
        say(f"{written:,} rows in Feast")
    if process.wait():
        tail = (folder / "fill.log").read_text().splitlines()[-_LOG_TAIL_LINES:]
        msg = "\n".join(["Feast was not filled:", *tail])
        raise FeastError(msg)


@contextlib.contextmanager
def server(found: Path, folder: Path, workers: int, environ: Mapping[str, str], core: int | None) -> Iterator[Server]:
    """``feast serve``."""
    port = free_port()
    command = [str(found / "feast"), "serve", "--host", HOST, "--port", str(port), "--workers", str(workers), *SETTINGS]
    name = f"feast serve, {workers} worker{'s' * (workers > 1)}"
    with serving(name, command, port, "/health", core=core, environ=environ, folder=folder) as up:
        yield up


def requests_of(users: Iterable[str]) -> list[bytes]:
    """A request for the five features of each user."""
    return [post(_PATH, _document(user)) for user in users]


def check_answers(port: int, expected: Mapping[str, Mapping[str, Any]]) -> None:
    """Ask for each user's features; ``FeastError`` unless they are those expected."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    for user, features in expected.items():
        connection.request("POST", _PATH, json.dumps(_document(user)), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        found = dict(zip(answer["metadata"]["feature_names"], (each["values"][0] for each in answer["results"]), strict=True))
        if found != {"user_id": user, **features}:
            msg = f"Feast's features of {user} == {found}, must be {features}"
            raise FeastError(msg)
    connection.close()


def _document(user: str, features: Sequence[str] = FEATURES) -> dict[str, Any]:
    return {"features": [f"segments:{name}" for name in features], "entities": {"user_id": [user]}}
