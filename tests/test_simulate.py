"""``forecourt simulate``: files, their truth, the pace, and what is said about bad arguments."""

from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Iterator

import pytest

from pipelines.market import POISON, Emission
from pipelines.poison import REASONS
from pipelines.simulate import paced, parse_args, run
from schemas.instants import DAY_MS, parse_instant

END = 1_769_817_600_000  # 2026-01-31T00:00:00Z


def test_a_message_is_drawn_when_its_turn_comes() -> None:
    now = [100.0]
    drawn = []

    def emissions() -> Iterator[Emission]:
        for _ in range(4):
            drawn.append(now[0])
            yield Emission(b"", None, POISON)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert len(list(paced(emissions(), rate=2.0, monotonic=lambda: now[0], sleep=sleep))) == 4
    assert drawn == [100.0, 100.5, 101.0, 101.5]


def simulated(path: pathlib.Path, *options: str) -> int:
    return run(["--events", "500", "--users", "9", "--until", "2026-01-31T00:00:00Z", "--to", f"file:{path}", *options])


def test_a_file_and_its_truth(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    trouble = ("--poison", "0.1", "--duplicates", "0.2", "--late", "0.1", "--truth", str(tmp_path / "truth.jsonl"), "--json")
    assert simulated(tmp_path / "events.jsonl", *trouble) == 0
    output = capsys.readouterr()
    document = json.loads(output.out)
    assert output.err == ""
    assert document.pop("seconds") >= 0
    assert sum(document.pop("poison_by_reason").values()) == 50
    assert document == {"events": 500, "published": 650, "poison": 50, "duplicates": 100, "late": 50}
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    truth = (tmp_path / "truth.jsonl").read_bytes().splitlines()
    assert (len(lines), len(truth), len(set(truth))) == (650, 500, 500)
    assert set(truth) < set(lines)
    assert b"2999-" not in b"".join(lines), "a file's newest event is its clock: nothing can be ahead of it"

    assert simulated(tmp_path / "events.jsonl.gz", *trouble) == 0
    assert gzip.decompress((tmp_path / "events.jsonl.gz").read_bytes()).splitlines() == lines
    before = (tmp_path / "events.jsonl.gz").read_bytes()
    assert simulated(tmp_path / "events.jsonl.gz", *trouble) == 0
    assert (tmp_path / "events.jsonl.gz").read_bytes() == before
    assert before[4:8] == bytes(4), "a time in the header would make the bytes differ from second to second"


def test_the_span_ends_at_until(tmp_path: pathlib.Path) -> None:
    assert simulated(tmp_path / "events.jsonl", "--days", "2") == 0
    times = [parse_instant(json.loads(line)["event_time"]) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert END - 2 * DAY_MS <= min(times) <= max(times) < END


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--poison 1.5", "--poison == 1.5, must be within [0, 1]"),
        ("--out-of-order -1", "--out-of-order == -1.0, must be within [0, 1]"),
        ("--events 0", "--events == 0, must be within [1, 50000000]"),
        ("--rate -1", "--rate == -1.0, must be 0 (as fast as possible) or a number of messages a second"),
        ("--days 0", "--days == 0.0, must be above 0 and must not reach back beyond 1970"),
        ("--until noon", "--until == 'noon', must be an RFC 3339 date-time with an offset"),
        ("--to kafka:events", "--to == 'kafka:events', must be file:PATH or pubsub://PROJECT/topics/TOPIC"),
        ("--to pubsub://demo/events", "--to == 'pubsub://demo/events', must be file:PATH or pubsub://PROJECT/topics/TOPIC"),
    ],
)
def test_bad_arguments_are_named(options: str, message: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulated(tmp_path / "events.jsonl", *options.split()) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.out == ""
    assert not list(tmp_path.iterdir())


def test_a_target_that_cannot_be_written_fails_in_one_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulated(tmp_path) == 1
    assert capsys.readouterr().err == f"forecourt simulate: {tmp_path}: Is a directory\n"


def test_only_pubsub_with_a_rate_is_live_and_only_pubsub_knows_a_future() -> None:
    live = parse_args("--to pubsub://demo/topics/events --rate 100 --events 1000".split(), clock=lambda: END)
    assert (live.live, live.market.start, live.market.end, live.market.reasons) == (True, END - 10_000, END, REASONS)
    bulk = parse_args("--to pubsub://demo/topics/events --days 1".split(), clock=lambda: END)
    assert (bulk.live, bulk.market.start, bulk.market.reasons) == (False, END - DAY_MS, REASONS)
    file = parse_args("--to file:events.jsonl --rate 100".split(), clock=lambda: END)
    assert (file.live, "future" in file.market.reasons) == (False, False)
