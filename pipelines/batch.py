"""Batch jobs over the archive: threads on this machine, a folder for slices, the one value that comes of it."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from pipelines.file_source import FileProgress
from pipelines.launch import LOCAL, launched, pipeline_options
from schemas.errors import ConfigError
from serving.keys import FILE_VARIABLE, KEY_VARIABLE, key_file_of, load_ring
from transforms.counters import counted_here
from transforms.slices import WORK
from transforms.whole_files import read_bytes

MAX_WORKERS = 64


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    """The option for how many shards are worked on at once."""
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads on this machine; default: %(default)s")


def check_workers(workers: int) -> int:
    """The number itself; ``ConfigError`` when there can't be so many."""
    if not 1 <= workers <= MAX_WORKERS:
        msg = f"--workers == {workers}, must be between 1 and {MAX_WORKERS}"
        raise ConfigError(msg)
    return workers


def batch_options(runner: str, beams: Sequence[str], workers: int) -> PipelineOptions:
    """Beam's options for a batch job, which has its threads where it runs on this machine."""
    options = pipeline_options(runner, beams)
    if runner in LOCAL:
        direct = options.view_as(DirectOptions)
        direct.direct_num_workers, direct.direct_running_mode = workers, "multi_threading"
    return options


@contextmanager
def slices_folder(runner: str, inside: str | None = None) -> Iterator[str | None]:
    """A folder for slices where they lie on this machine, ``None`` elsewhere; gone afterwards."""
    if runner not in LOCAL:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="_slices-", dir=inside) as folder:
        yield folder


def keys_of(store: str | None) -> tuple[str | None, int | None]:
    """What names the keys of pseudonyms, and the version of the one that writes; ``None`` for both where there is but one, or none.

    Batch jobs go without: only while there are several keys must they tell which pseudonyms are of one id.
    """
    given = os.environ.get(KEY_VARIABLE) or os.environ.get(FILE_VARIABLE)
    beside = store is not None and store.startswith("sqlite:///") and key_file_of(store).exists()
    if not given and not beside:
        return None, None
    ring = load_ring(store or "")
    return (None, None) if len(ring.keys) == 1 else (store or "", ring.current.version)


def evaluated(
    runner: str, options: PipelineOptions, build: Callable[[beam.Pipeline], Any], name: str, *, size: int, path: str
) -> bytes:
    """Run a graph over items of ``size`` bytes; what it wrote at ``path``."""
    done_before = counted_here().get(WORK, 0)

    def progress() -> FileProgress:
        return FileProgress(counted_here().get(WORK, 0) - done_before, 2 * size)

    launched(runner, options, build, name, progress)
    return read_bytes(path)
