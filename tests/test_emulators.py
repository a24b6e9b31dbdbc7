"""The real emulators: they start, answer, and are gone afterwards, whatever happens to whoever started them."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from pipelines import simulate
from pipelines.emulators import (
    EmulatorsError,
    EmulatorsMissing,
    Endpoints,
    bigtable_command,
    emulators,
    pubsub_command,
    run,
    sdk_root,
)
from schemas.errors import ConfigError
from schemas.instants import clock_ms, parse_instant

pytestmark = pytest.mark.alone

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "import sys; from pipelines.emulators import run; sys.exit(run(sys.argv[1:]))"]


@pytest.fixture(scope="module")
def installed() -> None:
    try:
        root = sdk_root()
        pubsub_command(root, 0), bigtable_command(root, 0)
    except EmulatorsMissing as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))


@pytest.fixture(scope="module")
def endpoints(installed: None) -> Iterator[Endpoints]:
    with emulators() as endpoints, pytest.MonkeyPatch.context() as patch:
        for name, address in endpoints.environment().items():
            patch.setenv(name, address)
        yield endpoints


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has reaped yet has."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return not state or state.startswith("Z")


def refused(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def test_pubsub_answers_and_simulated_traffic_arrives(endpoints: Endpoints, tmp_path: pathlib.Path) -> None:
    from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient

    topic, subscription = "projects/demo/topics/events", "projects/demo/subscriptions/events"
    with SubscriberClient() as subscriber:
        PublisherClient().create_topic(name=topic, timeout=10)
        subscriber.create_subscription(name=subscription, topic=topic, timeout=10)
        truth = tmp_path / "truth.jsonl"
        options = f"--events 300 --rate 3000 --late 0.1 --duplicates 0.1 --poison 0.1 --truth {truth}"
        before = clock_ms()
        assert simulate.run(["--to", "pubsub://demo/topics/events", *options.split()]) == 0
        received: list[bytes] = []
        while len(received) < 360:
            pulled = subscriber.pull(subscription=subscription, max_messages=1000, timeout=10).received_messages
            received += [message.message.data for message in pulled]
            subscriber.acknowledge(subscription=subscription, ack_ids=[message.ack_id for message in pulled], timeout=10)
    clean = truth.read_bytes().splitlines()
    assert (len(received), len(clean)) == (360, 300)
    assert set(clean) < set(received)
    newest = max(parse_instant(json.loads(line)["event_time"]) for line in clean)
    assert before <= newest <= clock_ms()


def test_a_topic_that_is_missing_or_badly_named_fails_in_one_line(endpoints: Endpoints, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.run(["--to", "pubsub://demo/topics/nowhere", "--events", "1"]) == 1
    assert "projects/demo/topics/nowhere: there is no such topic; create it" in capsys.readouterr().err
    assert simulate.run(["--to", "pubsub://demo/topics/t", "--events", "1"]) == 1
    assert "projects/demo/topics/t: Pub/Sub refuses a message: Invalid [topics] name" in capsys.readouterr().err


def test_a_pubsub_that_is_not_there_fails_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
    monkeypatch.setattr(simulate, "FIRST_PUBLISH_S", 1)
    assert simulate.run(["--to", "pubsub://demo/topics/events", "--events", "1"]) == 1
    error = capsys.readouterr().err
    assert "Pub/Sub doesn't take messages" in error
    assert "set PUBSUB_EMULATOR_HOST to where it runs (`forecourt emulators` starts one)" in error
    assert error.count("\n") == 1


def test_a_pubsub_that_goes_away_is_noticed_before_the_end(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from google.cloud.pubsub_v1 import PublisherClient

    monkeypatch.setattr(simulate, "PUBLISH_S", 1)
    with emulators(["pubsub"]) as other:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", other.pubsub)
        PublisherClient().create_topic(name="projects/demo/topics/events", timeout=10)
        sink = contextlib.ExitStack()
        write = sink.enter_context(simulate.sink_of("pubsub://demo/topics/events"))
        write(b"taken")
        os.kill(other.pubsub_pid, signal.SIGSTOP)
        write(b"not taken")
        with pytest.raises(simulate.SinkError, match="Pub/Sub doesn't take messages"):
            sink.close()


def test_bigtable_answers(endpoints: Endpoints) -> None:
    from google.cloud import bigtable

    table = bigtable.Client(project="demo", admin=True).instance("demo").table("answers")  # type: ignore[no-untyped-call]
    table.create(column_families={"f": None})
    row = table.direct_row(b"row")
    row.set_cell("f", b"q", b"value")
    row.commit()
    read = table.read_row(b"row")
    assert read is not None
    assert read.cell_value("f", b"q") == b"value"


def test_two_at_once_do_not_meet_and_a_stopped_one_ends_too(endpoints: Endpoints) -> None:
    with emulators(["bigtable"]) as other:
        assert other.environment() == {"BIGTABLE_EMULATOR_HOST": other.bigtable}
        assert other.bigtable not in (endpoints.bigtable, endpoints.pubsub)
        os.kill(other.bigtable_pid, signal.SIGSTOP)
    assert gone(other.bigtable_pid)
    assert refused(other.bigtable)
    assert not refused(endpoints.bigtable)


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_a_signal_to_the_command_leaves_nothing_behind(installed: None, number: signal.Signals, status: int) -> None:
    with started("--json") as command:
        assert command.stdout is not None
        document = json.loads(command.stdout.readline())
        addresses = (document["PUBSUB_EMULATOR_HOST"], document["BIGTABLE_EMULATOR_HOST"])
        pids = document["pids"].values()
        assert not any(map(refused, addresses))
        assert not any(map(gone, pids))
        command.send_signal(number)
        assert command.wait(timeout=10) == status
    assert within(5, lambda: all(map(gone, pids))), "the emulators outlive the process that started them"
    assert within(5, lambda: all(map(refused, addresses)))


def test_the_command_ends_when_an_emulator_does(installed: None) -> None:
    with started("--json") as command:
        assert command.stdout is not None
        pids = json.loads(command.stdout.readline())["pids"]
        os.kill(pids["pubsub"], signal.SIGKILL)
        assert command.wait(timeout=10) == 1
    assert gone(pids["bigtable"])


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("true", 0), ("kill -TERM $$", 143)])
def test_a_command_runs_with_the_variables_and_gives_its_status(installed: None, script: str, status: int) -> None:
    with started("--", "sh", "-c", f"echo $PUBSUB_EMULATOR_HOST $BIGTABLE_EMULATOR_HOST; {script}") as command:
        assert command.stdout is not None
        addresses = command.stdout.read().split()
        assert command.wait(timeout=20) == status
    assert len(addresses) == 2
    assert all(map(refused, addresses))


def test_a_sigterm_reaches_the_command(installed: None) -> None:
    with started("--", "sh", "-c", "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.05; done") as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "ready\n"
        time.sleep(0.1)
        command.terminate()
        assert command.stdout.read() == "told\n"
        assert command.wait(timeout=10) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--", "no-such-program"], "COMMAND == 'no-such-program', must be a program on PATH"),
        (["--"], "COMMAND == '', must follow --"),
        (["--json", "--", "true"], "--json == True, must be left out with a command"),
        (["--port", "1"], "unrecognized arguments: --port 1"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert output.out == ""


def fake_sdk(root: pathlib.Path, script: str) -> None:
    program = root / "platform/bigtable-emulator/cbtemulator"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_missing_emulators_say_how_to_install(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECOURT_SDK_ROOT", str(tmp_path))
    for which in ("pubsub", "bigtable"):
        with (
            pytest.raises(EmulatorsMissing, match=r"apt-get install google-cloud-cli-pubsub-emulator .*`gcloud components install"),
            emulators([which]),
        ):
            pass
    assert run([]) == 1


def test_an_emulator_that_ends_at_once_shows_its_log(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sdk(tmp_path, "echo no more memory >&2; exit 3")
    monkeypatch.setenv("FORECOURT_SDK_ROOT", str(tmp_path))
    with (
        pytest.raises(EmulatorsError, match=r"bigtable emulator ended with status 3 before it was ready.*\nno more memory"),
        emulators(["bigtable"]),
    ):
        pass


def test_an_emulator_that_never_listens_goes_with_its_children(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sdk(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait")
    monkeypatch.setenv("FORECOURT_SDK_ROOT", str(tmp_path))
    with pytest.raises(EmulatorsError, match="was not ready in time"), emulators(["bigtable"], timeout=0.5):
        pass
    assert within(5, lambda: gone(int((tmp_path / "child").read_text())))


@pytest.mark.parametrize("which", [[], ["spanner"]])
def test_an_unknown_emulator_is_refused(which: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"which == .*, must be some of pubsub, bigtable"), emulators(which):
        pass
