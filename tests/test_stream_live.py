"""The stream against both emulators: killed, doubled, stopped, reconfigured and cut off while it works. Nothing may be lost."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import forecourt
from pipelines import stream
from pipelines.emulators import Endpoints
from pipelines.pubsub_source import Pulled, Puller
from schemas.instants import HOUR_MS
from schemas.pseudonym import Pseudonyms, ring_of
from serving.keys import KEY_VARIABLE
from serving.store import open_store
from tests.faults import freeze, kill_at_random, stream_at_work, two_at_once
from tests.live import SETTLE_S, Bench, bench_in, publishing, wait_until
from tests.people import SPECS, faults_of, found_in, tellable, wire
from tests.people import START as LAWS_START
from tests.reference_people import Happening, left_of
from tests.traffic import KEY, RULES, Spans, Traffic, expected_spans, market_of, traffic_of
from transforms.stopping import STOPPING

pytestmark = pytest.mark.alone

KILLS = 5
RULES_TAKE_EFFECT_S = 15.0


@pytest.fixture
def bench(tmp_path: Path, emulators_endpoints: Endpoints) -> Iterator[Bench]:
    with bench_in(tmp_path, emulators_endpoints) as bench:
        yield bench


@pytest.fixture
def impatient_bench(tmp_path: Path, emulators_endpoints: Endpoints) -> Iterator[Bench]:
    """One where unacknowledged messages come again after ten seconds, the least that Pub/Sub allows."""
    with bench_in(tmp_path, emulators_endpoints, ack_deadline_s=10) as bench:
        yield bench


@pytest.fixture(scope="module")
def small() -> tuple[Traffic, dict[str, Spans]]:
    traffic = traffic_of(market_of(events=4_000, users=800, seed=2))
    return traffic, expected_spans(traffic.people)


def test_killed_anywhere_it_loses_and_repeats_nothing(impatient_bench: Bench) -> None:
    # published ───────────────────────────────────────────────▶
    # stream     ▶──────✗ ▶───✗  ▶─────────✗ ▶─✗ ▶────✗ ▶───────   each restart gets again what was not acknowledged
    traffic = traffic_of(market_of(events=12_000, users=2_500, seed=5))
    with ThreadPoolExecutor(1) as pool:
        expected = pool.submit(expected_spans, traffic.people)
        kills = list(kill_at_random(impatient_bench, random.Random(5), KILLS, traffic.messages))
        assert [kill.under_load for kill in kills] == [True] * KILLS
        impatient_bench.stream()
        balance = impatient_bench.settled(traffic, expected.result())
    assert balance.faults == {}
    assert balance.again > 0, "no message came twice, so the kills met nothing: this test shows nothing"


def test_two_at_once_make_the_same_rows_as_one(bench: Bench, small: tuple[Traffic, dict[str, Spans]]) -> None:
    traffic, expected = small
    pair = two_at_once(bench, traffic, expected)
    assert pair.balance.faults == {}
    assert all(document["holds"] and document["applied"] > 0 for document in pair.documents), "both must have had work"
    assert sum(document["read"] for document in pair.documents) >= len(traffic.messages)


def test_two_at_once_agree_who_is_whom_who_opted_out_and_who_is_forgotten(bench: Bench) -> None:
    # Links that race, shared devices, account switches, consents and forgets of 60 users in any order, many twice.
    rng = random.Random(6)
    kinds = ["listing_view"] * 9 + ["identify", "identify", "search", "opt_out", "opt_in", "forget"]
    fuels = [{"fuel_type": "electric"}, {"fuel_type": "diesel"}]
    users, phones = [f"u{n}@live" for n in range(60)], [f"p{n}@live" for n in range(40)]
    ids = [(rng.choice([*users, None]), rng.choice([*phones, None])) for _ in range(1_200)]
    events = tellable(
        [
            Happening(f"e{n:04}", rng.choice(kinds), LAWS_START + rng.randrange(6) * 9 * HOUR_MS, *pair, rng.choice(fuels))
            for n, pair in enumerate(ids)
            if any(pair)
        ]
    )
    arriving = events + rng.sample(events, 300)
    rng.shuffle(arriving)
    bench.rules.write_text(json.dumps({"version": 1, "segments": [{"name": f"r{n}", **spec} for n, spec in enumerate(SPECS)]}))
    left, store = left_of(events), open_store(bench.store_uri)
    assert len(left.forgotten) > 20
    streams = [bench.stream(), bench.stream()]
    with publishing(bench.topic, [wire(event) for event in arriving], rate=300) as sent:
        sent.result()
    wait_until(lambda: faults_of(store, left) == [], SETTLE_S, "rows are not the reference's")
    documents = [stream.stopped()[1] for stream in streams]
    assert faults_of(store, left) == []
    assert all(document["holds"] and document["applied"] > 0 for document in documents), "both must have had work"
    assert sum(document["link_conflicts"] for document in documents) > 0
    assert {"forgotten", "opted_out"} <= {reason for document in documents for reason in document["refused"]}
    assert found_in(b"\n".join(repr((key, store.dump(key))).encode() for key in store.keys()), left) == []
    assert not any(b"@live" in path.read_bytes() for path in bench.folder.iterdir() if path.is_file())


def test_sigterm_under_load_finishes_what_was_begun(impatient_bench: Bench, small: tuple[Traffic, dict[str, Spans]]) -> None:
    traffic, expected = small
    first = stream_at_work(impatient_bench, traffic.messages[:500])
    with publishing(impatient_bench.topic, traffic.messages[500:], rate=600) as sent:
        time.sleep(1.5)
        first.process.terminate()
        assert not sent.done(), "the load was over: this test shows nothing"
        status, before = first.ended()
        assert (status, before["holds"]) == (0, True)
        assert 0 < before["read"] < len(traffic.messages)
        second = impatient_bench.stream()
        sent.result()
        assert impatient_bench.settled(traffic, expected).faults == {}
        status, after = second.stopped()
    assert (status, after["holds"]) == (0, True)
    total = before["read"] + after["read"]
    assert total >= len(traffic.messages), "messages were acknowledged without having been read"
    assert total - len(traffic.messages) < before["read"], "all of the first stream's messages came again: it acknowledged nothing"


def test_a_stop_with_a_batch_in_hand_finishes_the_batch(
    impatient_bench: Bench,
    small: tuple[Traffic, dict[str, Spans]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # Signals seldom come just then, so the stop is set here as soon as messages have been taken.
    traffic, expected = small
    bench, take = impatient_bench, Puller.take

    def taken_and_stopped(puller: Puller, wait_s: float) -> Pulled | None:
        pulled = take(puller, wait_s)
        if pulled is not None:
            STOPPING.set()
        return pulled

    monkeypatch.setattr(Puller, "take", taken_and_stopped)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with publishing(bench.topic, traffic.messages) as sent:
            sent.result()
        assert stream.run(bench.options) == 0
    finally:
        STOPPING.clear()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    document = json.loads(capfd.readouterr().out)
    assert document["holds"]
    assert 0 < document["read"] < len(traffic.messages), "the rest is left to the next stream"
    bench.stream()
    assert bench.settled(traffic, expected).faults == {}


def test_rules_change_while_it_runs_and_broken_ones_do_not(bench: Bench, small: tuple[Traffic, dict[str, Spans]]) -> None:
    traffic, _ = small
    store, pseudonyms = open_store(bench.store_uri), Pseudonyms(ring_of(KEY, "tests"))
    keys = [pseudonyms(raw_id) for raw_id in traffic.ids]

    def versions() -> set[int]:
        return {row.membership.rule_version for row in store.read_rows(keys).values() if row.membership}

    with publishing(bench.topic, traffic.messages, rate=100):
        stream = bench.stream()
        wait_until(lambda: versions() == {41}, 60, "no rows of version 41")
        bench.rules.write_text(RULES.replace("version: 41", "version: 42"))
        wait_until(lambda: 42 in versions(), RULES_TAKE_EFFECT_S, "no rows of version 42")
        bench.rules.write_text(RULES.replace("version: 41", "version: 43").replace("electric}", "steam}"))
        wait_until(lambda: "rules refused" in stream.said, RULES_TAKE_EFFECT_S, "broken rules are not refused")
        refusal = next(line for line in stream.said.splitlines() if "rules refused" in line)
        assert "version 42 stays in force" in refusal
        assert "rules.yaml" in refusal
        assert "steam" in refusal
        bench.rules.write_text(RULES.replace("version: 41", "version: 44"))
        wait_until(lambda: 44 in versions(), RULES_TAKE_EFFECT_S, "no rows of version 44")
        assert 43 not in versions()
        assert stream.stopped()[0] == 0


@pytest.mark.parametrize("emulator", ["bigtable", "pubsub"])
def test_it_waits_while_one_is_away_and_loses_nothing(
    impatient_bench: Bench, small: tuple[Traffic, dict[str, Spans]], emulator: str
) -> None:
    traffic, expected = small
    outage = freeze(impatient_bench, traffic, expected, emulator, seconds=8)
    assert outage.survived, "the stream ended in the outage"
    assert outage.balance.faults == {}
    assert (outage.status, outage.document["holds"]) == (0, True)


def failed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Exit status and stderr of the command line, in this process."""
    monkeypatch.setattr("sys.argv", ["forecourt", "stream", *options])
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with pytest.raises(SystemExit) as stop:
        forecourt.main()
    captured = capfd.readouterr()
    assert captured.out == ""
    return int(stop.value.code or 0), captured.err


def test_a_store_that_is_down_says_what_to_do(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with bench.frozen("bigtable"):
        status, said = failed(monkeypatch, capfd, "--source", bench.subscription, "--store", bench.store_uri)
    assert status == 1
    assert f"store {bench.store_uri} does not answer within 5 s" in said
    assert f"is the emulator at BIGTABLE_EMULATOR_HOST={bench.endpoints.bigtable} running (forecourt emulators)?" in said
    assert said.count("\n") == 1


def test_a_missing_table_says_how_to_make_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = "bigtable://demo/demo/nowhere"
    status, said = failed(monkeypatch, capfd, "--source", bench.subscription, "--store", missing)
    assert status == 1
    assert f"create it: forecourt store init --store {missing}" in said
    assert said.count("\n") == 1


def test_a_missing_subscription_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    missing = "pubsub://demo/subscriptions/nowhere"
    status, said = failed(monkeypatch, capfd, "--source", missing, "--store", bench.store_uri)
    assert status == 2
    assert f"source == {missing} does not exist, must be a subscription" in said
    assert said.count("\n") == 1


def test_a_pubsub_that_is_down_says_what_to_do(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
    status, said = failed(monkeypatch, capfd, "--source", bench.subscription, "--store", bench.store_uri)
    assert status == 1
    assert "is the emulator at PUBSUB_EMULATOR_HOST=127.0.0.1:1 running (forecourt emulators)?" in said
    assert said.count("\n") == 1
