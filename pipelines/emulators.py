"""``forecourt emulators``: Google's Pub/Sub and Bigtable emulators, for as long as something needs them.

    forecourt emulators                       # prints the variables to export, runs until Ctrl-C
    forecourt emulators -- make bench-stream  # runs a command with them set, exits with its status

The binaries are started directly: ``gcloud beta emulators`` would put a shell and a Python process in between, which a signal
doesn't get past. Each has a process group of its own. A guard process waits for the end of a pipe that only we hold open, and
then kills the groups: so they go even when we are killed with ``kill -9``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Final, NamedTuple, NoReturn

from schemas.errors import EXIT_FAILED, EXIT_OK, ConfigError, ForecourtError, shown

HOST: Final = "127.0.0.1"
START_S: Final = 60.0  # a JVM on a busy machine
INSTALL: Final = (
    "install them with `apt-get install google-cloud-cli-pubsub-emulator google-cloud-cli-bigtable-emulator` (from Google's apt "
    "repository; Pub/Sub's needs Java) or `gcloud components install pubsub-emulator bigtable`"
)
_POLL_S: Final = 0.1
_LOG_TAIL_LINES: Final = 20
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_GUARD: Final = 'while read group; do groups="$groups -$group"; done; kill -s KILL -- $groups'


class EmulatorsError(ForecourtError):
    """An emulator doesn't run; the message carries the end of its log."""


class EmulatorsMissing(EmulatorsError):
    """An emulator isn't installed; the message says how to."""


class Endpoints(NamedTuple):
    """Where the emulators listen, and the process to stop or kill for each; empty and 0 for one that wasn't asked for."""

    pubsub: str = ""
    bigtable: str = ""
    pubsub_pid: int = 0
    bigtable_pid: int = 0

    def environment(self) -> dict[str, str]:
        """What Google's clients read.

        >>> Endpoints(pubsub="127.0.0.1:8085").environment()
        {'PUBSUB_EMULATOR_HOST': '127.0.0.1:8085'}
        """
        variables = {"PUBSUB_EMULATOR_HOST": self.pubsub, "BIGTABLE_EMULATOR_HOST": self.bigtable}
        return {name: address for name, address in variables.items() if address}


class _Running(NamedTuple):
    name: str
    process: subprocess.Popen[bytes]
    address: str
    log: pathlib.Path


def sdk_root(environ: Mapping[str, str] = os.environ) -> pathlib.Path:
    """The Google Cloud SDK: ``FORECOURT_SDK_ROOT``, else a usual place, else what ``gcloud`` says (which takes a second)."""
    if told := environ.get("FORECOURT_SDK_ROOT"):
        return pathlib.Path(told)
    usual = [environ.get("CLOUDSDK_ROOT_DIR"), "/usr/lib/google-cloud-sdk", "/usr/share/google-cloud-sdk"]
    for root in (*map(pathlib.Path, filter(None, usual)), pathlib.Path.home() / "google-cloud-sdk"):
        if any((root / "platform" / folder).is_dir() for folder in ("pubsub-emulator", "bigtable-emulator")):
            return root
    if gcloud := shutil.which("gcloud"):
        with contextlib.suppress(subprocess.SubprocessError):
            told = subprocess.run(
                [gcloud, "info", "--format=value(installation.sdk_root)"], capture_output=True, text=True, check=True, timeout=30
            ).stdout.strip()
            return pathlib.Path(told)
    msg = f"no Google Cloud SDK was found (FORECOURT_SDK_ROOT may name one); {INSTALL}"
    raise EmulatorsMissing(msg)


def pubsub_command(root: pathlib.Path, port: int) -> list[str]:
    """The Pub/Sub emulator's process. Not by its start script, which only looks for these."""
    jars = sorted((root / "platform/pubsub-emulator/lib").glob("cloud-pubsub-emulator-*.jar"))
    if not jars:
        msg = f"no Pub/Sub emulator under {root}/platform; {INSTALL}"
        raise EmulatorsMissing(msg)
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(f"{home}/bin/java" if home else "java")
    if java is None:
        msg = "no Java for the Pub/Sub emulator, neither in JAVA_HOME nor on PATH; run `apt-get install default-jre-headless`"
        raise EmulatorsMissing(msg)
    return [java, "-jar", str(jars[-1]), f"--host={HOST}", f"--port={port}"]


def bigtable_command(root: pathlib.Path, port: int) -> list[str]:
    """The Bigtable emulator's process."""
    program = root / "platform/bigtable-emulator/cbtemulator"
    if not os.access(program, os.X_OK):
        msg = f"no Bigtable emulator under {root}/platform; {INSTALL}"
        raise EmulatorsMissing(msg)
    return [str(program), f"-host={HOST}", f"-port={port}"]


COMMANDS: Final[dict[str, Callable[[pathlib.Path, int], list[str]]]] = {"pubsub": pubsub_command, "bigtable": bigtable_command}


@contextlib.contextmanager
def emulators(which: Sequence[str] = ("pubsub", "bigtable"), timeout: float = START_S) -> Iterator[Endpoints]:
    """Emulators that accept connections, on free ports, empty; killed when the context ends, and when this process does."""
    if not which or not set(which) <= COMMANDS.keys():
        msg = f"which == {shown(which)}, must be some of {', '.join(COMMANDS)}"
        raise ConfigError(msg)
    root = sdk_root()
    ports = dict(zip(which, _free_ports(len(which)), strict=True))
    commands = {name: COMMANDS[name](root, port) for name, port in ports.items()}
    with tempfile.TemporaryDirectory(prefix="forecourt-emulators-") as logs, _guard() as guarded:
        running = []
        for name, command in commands.items():
            log = pathlib.Path(logs) / f"{name}.log"
            running.append(_Running(name, guarded(command, log), f"{HOST}:{ports[name]}", log))
        deadline = time.monotonic() + timeout
        for emulator in running:
            _wait_for(emulator, deadline)
        addresses = {emulator.name: emulator.address for emulator in running}
        pids = {emulator.name: emulator.process.pid for emulator in running}
        yield Endpoints(addresses.get("pubsub", ""), addresses.get("bigtable", ""), pids.get("pubsub", 0), pids.get("bigtable", 0))


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different as they are held at the same time."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind((HOST, 0))
        return [held.getsockname()[1] for held in sockets]


Start = Callable[[list[str], pathlib.Path], "subprocess.Popen[bytes]"]


@contextlib.contextmanager
def _guard() -> Iterator[Start]:
    """A function that starts a process whose whole group ends with this context, or with this process."""
    processes: list[subprocess.Popen[bytes]] = []
    null = subprocess.DEVNULL
    guard = subprocess.Popen(["/bin/sh", "-c", _GUARD], stdin=subprocess.PIPE, stdout=null, stderr=null, start_new_session=True)
    assert guard.stdin is not None
    pipe: IO[bytes] = guard.stdin

    def start(command: list[str], log: pathlib.Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        processes.append(process)
        pipe.write(b"%d\n" % process.pid)
        pipe.flush()
        return process

    try:
        yield start
    finally:
        # The guard is done before the processes are reaped: until then, no other group can have their numbers.
        pipe.close()
        guard.wait()
        for process in processes:
            process.kill()  # in case somebody killed the guard
            process.wait()


def _wait_for(emulator: _Running, deadline: float) -> None:
    """Returns once the emulator answers on a gRPC channel."""
    import grpc

    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(emulator.address, options) as channel:
        ready = grpc.channel_ready_future(channel)
        while True:
            try:
                ready.result(timeout=_POLL_S)
                return
            except grpc.FutureTimeoutError:
                if emulator.process.poll() is not None:
                    _fail(emulator, f"ended with status {emulator.process.returncode} before it was ready")
                if time.monotonic() > deadline:
                    _fail(emulator, f"was not ready in time at {emulator.address}")


def _fail(emulator: _Running, what: str) -> NoReturn:
    tail = emulator.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    msg = "\n".join([f"the {emulator.name} emulator {what}; the end of its log:", *(tail or ["(empty)"])])
    raise EmulatorsError(msg)


class Config(NamedTuple):
    """The command line: a command to run, empty to run until a signal comes."""

    command: list[str]
    json: bool


def parse_args(argv: Sequence[str]) -> Config:
    """The config of a command line; exits with status 2 and one clear line when that is not possible."""
    split = list(argv).index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="forecourt emulators",
        usage="forecourt emulators [-h] [--json] [-- COMMAND ...]",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document, with the process ids; not with a command")
    args = parser.parse_args(argv[:split])
    command = list(argv[split + 1 :])
    if split < len(argv) and not command:
        parser.error("COMMAND == '', must follow --")
    if command and shutil.which(command[0]) is None:
        parser.error(f"COMMAND == {shown(command[0])}, must be a program on PATH")
    if command and args.json:
        parser.error("--json == True, must be left out with a command: the output is the command's")
    return Config(command, args.json)


class _Stop(BaseException):
    """SIGINT or SIGTERM: not an ``Exception``, so that nothing but ``run`` catches it."""


def run(argv: Sequence[str]) -> int:
    """Exit status of the command: the one of COMMAND, or 0 after a signal, 1 when an emulator doesn't run, 2 bad arguments."""
    try:
        config = parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    before = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        with emulators() as endpoints:
            return _run_command(config.command, endpoints) if config.command else _run_until_stopped(config, endpoints)
    except _Stop:
        return EXIT_OK
    except EmulatorsError as error:
        print(f"forecourt emulators: {error}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> NoReturn:
    # Once is enough: a second one must not interrupt the cleaning up.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise _Stop


def _run_until_stopped(config: Config, endpoints: Endpoints) -> int:
    """Prints the variables, and watches over the emulators: returns only if one of them ends by itself."""
    variables = endpoints.environment()
    pids = {"pubsub": endpoints.pubsub_pid, "bigtable": endpoints.bigtable_pid}
    document = json.dumps({**variables, "pids": pids})
    print(document if config.json else "\n".join(f"export {name}={address}" for name, address in variables.items()), flush=True)
    while True:
        for name, pid in pids.items():
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                print(f"forecourt emulators: the {name} emulator ended", file=sys.stderr)
                return EXIT_FAILED
        time.sleep(_POLL_S)


def _run_command(command: list[str], endpoints: Endpoints) -> int:
    """The command's exit status, 128 + n when signal n ended it; it gets our SIGTERM, and a terminal's Ctrl-C by itself."""
    with subprocess.Popen(command, env=os.environ | endpoints.environment()) as child:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: child.terminate())
        status = child.wait()
    return status if status >= 0 else 128 - status
