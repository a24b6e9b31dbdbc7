"""What every benchmark shares: facts about the machine, memory of a process, and the JSON it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from schemas.instants import clock_ms, format_instant

FOLDER: Final = Path(__file__).parent / "results"
_PACKAGES: Final = (
    "apache-beam",
    "duckdb",
    "falcon",
    "google-cloud-bigtable",
    "google-cloud-pubsub",
    "grpcio",
    "msgspec",
    "numba",
    "numpy",
    "pandas",
    "pyarrow",
    "uvicorn",
    "uvloop",
)


def machine() -> dict[str, Any]:
    """Where and with what a run was made."""
    return {
        "at": format_instant(clock_ms()),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def say(text: str) -> None:
    """Tell on stderr what is under way."""
    Console(stderr=True).print(f"[dim]… {text}[/]")


@contextlib.contextmanager
def folder_at(keep: str | None) -> Iterator[Path]:
    """The folder to keep tables in, made if need be; ``None``: one that is gone afterwards."""
    if keep is None:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
    else:
        Path(keep).mkdir(parents=True, exist_ok=True)
        yield Path(keep)


def write_results(name: str, results: dict[str, Any]) -> Path:
    """Write ``benchmarks/results/NAME.json``; its path."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
    return path


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """A process's memory in MB: ``VmRSS`` now, ``VmHWM`` at its peak (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    msg = f"/proc/{pid}/status has no {field}"
    raise OSError(msg)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie, nearest rank.

    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
