"""Running a pipeline and telling how it went: runner options, signals, progress on stderr, the balance at the end."""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pipelines.file_source import FileProgress, file_progress
from schemas import errors
from schemas.errors import ConfigError, ForecourtError, shown
from transforms.counters import APPLIED, READ, Conservation, conservation_of, counted_by, counted_here
from transforms.local_runner import local_runner
from transforms.stopping import stop_on_signals

LOCAL: Final = ("DirectRunner", "FnApiRunner")
DATAFLOW: Final = "DataflowRunner"
_TOLD: Final = re.compile(r"^schemas\.errors\.(\w+): (.*)$", re.MULTILINE)
_PROGRESS_AFTER_S: Final = 2.0
_PROGRESS_EVERY_S: Final = 0.25
_STATUS_EVERY_S: Final = 10.0


class Finished(NamedTuple):
    """A run that ended well: its counters and how long it took."""

    counters: Mapping[str, int]
    seconds: float


def add_runner_options(parser: argparse.ArgumentParser) -> None:
    """The options every pipeline has; what the parser doesn't know is Beam's."""
    parser.add_argument(
        "--runner", default="DirectRunner", help="DirectRunner (this process) or DataflowRunner; default: %(default)s"
    )
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="check options and graph, run nothing")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document on stdout at the end")


def pipeline_options(runner: str, beams: Sequence[str]) -> PipelineOptions:
    """Beam's options; ``ConfigError`` for an option nobody knows, or a runner we don't run on."""
    if runner not in (*LOCAL, DATAFLOW):
        msg = f"--runner == {shown(runner)}, must be DirectRunner or DataflowRunner"
        raise ConfigError(msg)
    options = PipelineOptions([*beams, f"--runner={'FnApiRunner' if runner in LOCAL else runner}"])
    logging.getLogger("apache_beam.options.pipeline_options").setLevel(logging.ERROR)  # warns of what is refused below
    known = options.get_all_options(drop_default=True, retain_unknown_options=False)
    for option in beams:
        name = option.split("=")[0].lstrip("-")
        if option.startswith("--") and name not in known and not hasattr(options, name):
            msg = f"option == {shown(option)}, must be one that --help lists or one of Beam's"
            raise ConfigError(msg)
    options.view_as(SetupOptions).save_main_session = False
    return options


def launched(
    runner: str,
    options: PipelineOptions,
    build: Callable[[beam.Pipeline], Any],
    name: str,
    progress: Callable[[], FileProgress] = file_progress,
) -> Finished:
    """Build and run a pipeline to its end, with progress on stderr; the fault inside it as itself when it fails."""
    start = time.monotonic()
    local = runner in LOCAL
    pipeline = beam.Pipeline(runner=local_runner() if local else runner, options=options)
    build(pipeline)
    if not local:
        result = pipeline.run()
        result.wait_until_finish()
        return Finished(counted_by(result), time.monotonic() - start)
    stop_on_signals()
    for teller in ("apache_beam.runners.common", "apache_beam.runners.worker.sdk_worker"):
        logging.getLogger(teller).setLevel(logging.CRITICAL)  # they tell with a traceback what we tell in one line
    try:
        with _progress(name, progress):
            result = pipeline.run()
            result.wait_until_finish()
    except Exception as error:
        fault = _fault_in(error) or fault_told_in(str(error))
        if fault is None:
            raise
        raise fault from error
    return Finished(counted_by(result), time.monotonic() - start)


def dry_run(build: Callable[[beam.Pipeline], Any]) -> int:
    """Build the graph and run nothing; with no options, for Dataflow's would ask Google for a bucket."""
    pipeline = beam.Pipeline(runner=local_runner(), options=PipelineOptions(["--streaming"]))
    build(pipeline)
    pipeline.to_runner_api()
    shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)  # which only a run removes
    print("the graph is sound; nothing was run", file=sys.stderr)
    return 0


def summary_of(finished: Finished, dead_letters: str, *, as_json: bool) -> Conservation:
    """Print the balance, as a table on stderr or as JSON on stdout; the balance."""
    counts = conservation_of(finished.counters)
    if as_json:
        print(json.dumps({**counts._asdict(), "holds": counts.holds, "seconds": round(finished.seconds, 3)}))
        return counts
    table = Table(
        title="read = applied + duplicate + refused" if counts.holds else "THE BALANCE DOES NOT HOLD", title_justify="left"
    )
    table.add_column("messages")
    table.add_column("number", justify="right")
    for what, number in (("read", counts.read), ("applied", counts.applied), ("duplicate", counts.duplicate)):
        table.add_row(what, f"{number:,}")
    for reason, number in counts.refused.items():
        table.add_row(f"refused: {reason}", f"{number:,}")
    console = Console(stderr=True)
    console.print(table)
    if counts.dead:
        console.print(f"refused messages are in {dead_letters}", soft_wrap=True)
    for what, number in (("attributes", counts.unknown_attributes), ("values", counts.unknown_values)):
        if number:
            console.print(f"{number:,} {what} outside the catalogue were dropped")
    if counts.link_conflicts:
        console.print(f"{counts.link_conflicts:,} events name another user than their anonymous id is linked to: no view moved")
    rate = counts.read / finished.seconds if finished.seconds else 0.0
    console.print(f"{finished.seconds:.1f} s, {rate:,.0f} messages/s")
    return counts


def _fault_in(error: BaseException | None) -> ForecourtError | None:
    """Our own error at the root of what a runner raised; not Beam's copy of it, which has the step's name at its end."""
    found: ForecourtError | None = None
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ForecourtError) and (found is None or str(found).startswith(str(error))):
            found = error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return found


def fault_told_in(text: str) -> ForecourtError | None:
    """Our own error out of the traceback that a runner with several workers has in an error's place."""
    found = _TOLD.search(text)
    if found is None:
        return None
    kind = getattr(errors, found[1], None)
    return kind(found[2]) if isinstance(kind, type) and issubclass(kind, ForecourtError) and kind is not errors.EventError else None


@contextmanager
def _progress(name: str, progress: Callable[[], FileProgress]) -> Iterator[None]:
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(name, done, progress), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(name: str, done: threading.Event, progress: Callable[[], FileProgress]) -> None:
    """A bar while there is an end in sight, a line every ten seconds otherwise or where nobody watches."""
    if done.wait(_PROGRESS_AFTER_S):
        return
    console = Console(stderr=True)
    if not progress().size:
        _show_lines(name, done, console)
        return
    columns = (TextColumn(name), BarColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(name, total=progress().size, rate="")
        start, first = time.monotonic(), counted_here().get(READ, 0)
        while not done.wait(_PROGRESS_EVERY_S):
            rate = (counted_here().get(READ, 0) - first) / (time.monotonic() - start)
            bar.update(task, completed=progress().done, rate=f"{rate:,.0f} events/s")


def _show_lines(name: str, done: threading.Event, console: Console) -> None:
    last, at = counted_here(), time.monotonic()
    while not done.wait(_STATUS_EVERY_S):
        counts, now = counted_here(), time.monotonic()
        rate = (counts.get(READ, 0) - last.get(READ, 0)) / (now - at)
        balance = conservation_of(counts)
        refused = sum(balance.refused.values())
        if counts != last:
            console.print(
                f"{name}: {rate:,.0f} messages/s; read {balance.read:,}, applied {counts.get(APPLIED, 0):,}, "
                f"duplicate {balance.duplicate:,}, refused {refused:,}"
            )
        last, at = counts, now
