"""Segments that clash with what visitors filter for, and how often a filter overrode the personalised answer.

forecourt conflicts --archive DIR [--from DATE] [--to DATE] [--top N] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from rich.console import Console
from rich.table import Table

from experiments.conflicts import ANY, Tally
from pipelines.options import check_dates
from schemas.errors import EXIT_OK, ConfigError
from schemas.exposure import exposure_in
from transforms.archive_files import check_archive_path, dates_of, parts_of
from transforms.metrics import wilson

TOP: Final = 20
IMPRESSION: Final = "featured_impression"
_COLUMNS: Final = ["event_id", "event_type", "experiment"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Which impressions to look at, and how much of the answer to print; ``ConfigError`` when it can't be done."""

    archive: str
    first: str | None = None
    last: str | None = None
    top: int = TOP
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_archive_path(self.archive)
        check_dates(self.first, self.last)
        if self.top < 1:
            msg = f"--top == {self.top}, must be at least 1"
            raise ConfigError(msg)


@dataclasses.dataclass
class Counted:
    """The tally of an archive's impressions, and how many events could not be read as one."""

    dates: list[str]
    tally: Tally
    unreadable: int = 0


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line."""
    parser = argparse.ArgumentParser(
        prog="forecourt conflicts", description="Segments that clash with visitors' filters, worst first."
    )
    parser.add_argument("--archive", required=True, metavar="DIR", help="the archive of events, or gs://BUCKET/FOLDER")
    parser.add_argument(
        "--from", dest="first", metavar="DATE", help="the first date, such as 2026-05-01; default: the archive's first"
    )
    parser.add_argument("--to", dest="last", metavar="DATE", help="the last date, included; default: the archive's last")
    parser.add_argument("--top", type=int, default=TOP, metavar="N", help="print the N worst; default: %(default)d (--json: all)")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON on stdout and nothing else")
    return Config(**vars(parser.parse_args(argv)))


def run(argv: Sequence[str]) -> int:
    """Run ``forecourt conflicts``; the exit status."""
    config = parse_args(argv)
    document = document_of(count(config))
    if config.as_json:
        print(json.dumps(document))
    else:
        show(document, config.top)
    return EXIT_OK


def count(config: Config) -> Counted:
    """Count an archive's impressions, each event id once, a date at a time."""
    dates = [
        date
        for date in dates_of(config.archive)
        if (config.first is None or date >= config.first) and (config.last is None or date <= config.last)
    ]
    counted = Counted(dates, Tally())
    for date in dates:
        seen: set[str] = set()  # copies have the same event time, so the same date
        for path in parts_of(config.archive, [date]):
            for event_id, experiment in _impressions_in(path):
                if event_id in seen:
                    continue
                seen.add(event_id)
                exposure = exposure_in(experiment)
                if exposure is None:
                    counted.unreadable += 1
                else:
                    counted.tally.add(exposure)
    return counted


def document_of(counted: Counted) -> dict[str, Any]:
    """What ``--json`` prints: conflicts by segment and attribute, the surest worst first, and rungs."""
    tally = counted.tally
    rows = [
        {
            "segment": segment,
            "attribute": attribute,
            "impressions": tally.offers[segment],
            "conflicts": round(tally.conflicts_scaled[segment, attribute], 1),
            "share": round(tally.share_of((segment, attribute)), 4),
            "share_low": round(_least(tally, (segment, attribute)), 4),
            "drawn": drawn,
        }
        for (segment, attribute), drawn in tally.conflicts_drawn.items()
    ]
    rungs = [
        {
            "rung": rung,
            "impressions": number,
            "with_filters": tally.rungs_filtered[rung],
            "with_conflicts": round(tally.rungs_scaled[rung], 1),
        }
        for rung, number in sorted(tally.rungs.items(), key=lambda item: (-item[1], item[0]))
    ]
    return {
        "dates": [counted.dates[0], counted.dates[-1]] if counted.dates else [],
        "impressions": tally.impressions,
        "drawn": tally.drawn,
        "dropped": tally.dropped,
        "unreadable": counted.unreadable,
        "conflicts": sorted(rows, key=lambda row: (-row["share_low"], -row["conflicts"], row["segment"], row["attribute"] or "")),
        "rungs": rungs,
        "filtered": tally.filtered,
        "overridden": round(tally.overridden_scaled, 1),
        "overridden_share": round(tally.overridden_scaled / tally.filtered_scaled, 4) if tally.filtered_scaled else None,
    }


def show(document: dict[str, Any], top: int) -> None:
    """Print the worst conflicts, and the rungs."""
    out = Console()
    if not document["impressions"]:
        out.print(f"no impressions; {document['unreadable']} events could not be read as one")
        return
    table = Table(
        title=f"{' to '.join(document['dates'])}: {document['impressions']:,} requests, conflicts of {document['drawn']:,}"
    )
    for column in ("segment", "filter", "offered", "conflicts", "share", "at least"):
        table.add_column(column, justify="left" if column in {"segment", "filter"} else "right")
    for row in document["conflicts"][:top]:
        figures = (f"{row['impressions']:,}", f"{row['conflicts']:,.0f}", f"{row['share']:.1%}", f"{row['share_low']:.1%}")
        table.add_row(row["segment"], "(any)" if row["attribute"] is ANY else row["attribute"], *figures)
    out.print(table if document["conflicts"] else "no conflicts")
    if (more := len(document["conflicts"]) - top) > 0:
        out.print(f"and {more} more: --top, --json")
    table = Table()
    for column in ("rung", "requests", "with filters", "with conflicts"):
        table.add_column(column, justify="left" if column == "rung" else "right")
    for row in document["rungs"]:
        table.add_row(row["rung"], f"{row['impressions']:,}", f"{row['with_filters']:,}", f"{row['with_conflicts']:,.0f}")
    out.print(table)
    if document["overridden_share"] is not None:
        out.print(
            f"filters overrode the personalised answer in {document['overridden_share']:.1%} of the "
            f"{document['filtered']:,} requests that had segments and filters"
        )
    if document["dropped"]:
        out.print(f"{document['dropped']:,} conflicts had no room in their impressions, and are in no count")
    if document["unreadable"]:
        out.print(f"{document['unreadable']:,} impressions could not be read")


def _least(tally: Tally, pair: tuple[str, str | None]) -> float:
    """The lower end of the interval of the share."""
    size = tally.size_of(pair[0])
    return wilson(tally.share_of(pair) * size, size)[0] or 0.0


def _impressions_in(path: str) -> Iterator[tuple[str, str | None]]:
    """The ids and experiment texts of a file's impressions; ``ConfigError`` names a file that can't be read."""
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            table = pq.read_table(pa.BufferReader(file.read()), columns=_COLUMNS, partitioning=None)
        table = table.filter(pc.equal(table["event_type"], IMPRESSION))
    except Exception as error:  # pyarrow, and FileSystems, raise whatever they find
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        msg = f"archive file == {path}, must be readable Parquet that forecourt archive wrote: {reason}"
        raise ConfigError(msg) from error
    yield from zip(table["event_id"].to_pylist(), table["experiment"].to_pylist(), strict=True)
