"""HTTP servers as processes: started on a core of their own where there are two, waited for, looked at, stopped."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import psutil

from benchmarks.http_load import HOST

START_S: Final = 60.0
STOP_S: Final = 10.0
_POLL_S: Final = 0.05
_LOG_TAIL_LINES: Final = 20


class Cores(NamedTuple):
    """The core of what is measured, and that of the load and the store; ``None`` where they can't be kept apart."""

    server: int | None
    client: int | None

    def document(self) -> dict[str, Any]:
        """How it stands in the results."""
        if self.server is None:
            return {"pinned": False, "why": "needs two cores, Linux and taskset"}
        return {"pinned": True, "server": self.server, "load and store": self.client}


def cores() -> Cores:
    """The first two cores that this process may use."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return Cores(usable[0], usable[1]) if len(usable) > 1 and shutil.which("taskset") else Cores(None, None)


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Keep this process on one core, with all it starts meanwhile; afterwards it has those it had before."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Memory(NamedTuple):
    """Of a server's processes together, in MB: ``rss_mb`` counts what they share once for each, ``pss_mb`` once in all."""

    processes: int
    rss_mb: float
    pss_mb: float


class Server(NamedTuple):
    """A server that answers."""

    name: str
    port: int
    pid: int

    def cpu_s(self) -> float:
        """Processor time so far, with that of its workers, in seconds."""
        parent = psutil.Process(self.pid)
        return sum(times.user + times.system for times in (each.cpu_times() for each in (parent, *parent.children(recursive=True))))

    def memory(self) -> Memory:
        """Memory now, with that of its workers."""
        parent = psutil.Process(self.pid)
        found = [process.memory_full_info() for process in (parent, *parent.children(recursive=True))]
        return Memory(len(found), round(sum(m.rss for m in found) / 2**20, 1), round(sum(m.pss for m in found) / 2**20, 1))


class ServerError(RuntimeError):
    """A server doesn't start, or ends by itself; the message has the end of its log."""


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        port: int = held.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(
    name: str,
    command: Sequence[str],
    port: int,
    ready: str,
    *,
    core: int | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[Server]:
    """A server, from when it answers a GET of ``ready`` with a status below 500 until the context ends."""
    pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*pinned, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | dict(environ or {}),
            cwd=folder,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_S
            while not _answers(port, ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    msg = _with_log(f"{name} does not answer at {HOST}:{port}{ready}", log)
                    raise ServerError(msg)
                time.sleep(_POLL_S)
            try:
                yield Server(name, port, process.pid)
            except Exception as fault:
                if process.poll() is None:
                    raise
                msg = _with_log(f"{name} ended with status {process.returncode}", log)
                raise ServerError(msg) from fault
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _with_log(what: str, log: IO[bytes]) -> str:
    log.seek(0)
    return "\n".join([f"{what}; the end of its log:", *log.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:]])


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=START_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()
