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


def evaluated(
    runner: str, options: PipelineOptions, build: Callable[[beam.Pipeline], Any], name: str, *, size: int, path: str
) -> bytes:
    """Run a graph over items of ``size`` bytes; what it wrote at ``path``."""
    done_before = counted_here().get(WORK, 0)

    def progress() -> FileProgress:
        return FileProgress(counted_here().get(WORK, 0) - done_before, 2 * size)

    launched(runner, options, build, name, progress)
    return read_bytes(path)
