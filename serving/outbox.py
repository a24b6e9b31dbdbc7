"""The outbox: events on their way to a sink, without making whoever puts them there wait or fail.

``put`` keeps a message in memory, within bounds, and returns. A thread writes what waits, a batch at a time. When the sink fails,
the batch is tried again, with growing pauses, for as long as it takes; meanwhile the bounds fill up, and what no longer fits is
dropped and counted. A batch that failed halfway comes twice: its events have ids, and copies count once.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from serving.file_sink import Sink

MAX_MESSAGES: Final = 20_000
MAX_BYTES: Final = 32 << 20
BATCH_MESSAGES: Final = 500
LINGER_S: Final = 0.1
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
_CLOSING_PAUSE_S: Final = 0.05
_TELL_S: Final = 60.0

_log = logging.getLogger(__name__)


class Counts(NamedTuple):
    """What became of the messages; ``failures`` are failed writes of batches, ``waiting`` includes the batch being written."""

    written: int
    dropped: int
    failures: int
    waiting: int
    waiting_bytes: int


class Outbox:
    """One a process, made after any fork: it starts its thread at once. ``linger_s``: how often what waits is looked at."""

    def __init__(
        self,
        sink: Sink,
        *,
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
        batch_messages: int = BATCH_MESSAGES,
        linger_s: float = LINGER_S,
        first_pause_s: float = FIRST_PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._max_messages, self._max_bytes, self._batch_messages = max_messages, max_bytes, batch_messages
        self._linger_s, self._first_pause_s, self._longest_pause_s = linger_s, first_pause_s, longest_pause_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._new: deque[bytes] = deque()  # what the thread hasn't taken over yet
        self._held = self._bytes = self._written = self._dropped = self._failures = 0
        self._closed = False
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._told_s: float | None = None
        self._thread = threading.Thread(target=self._drain, name="outbox", daemon=True)
        self._thread.start()

    def put(self, message: bytes) -> bool:
        """Take a message; false when it was dropped. Never waits, never raises."""
        return self.put_all((message,))

    def put_all(self, messages: Sequence[bytes]) -> bool:
        """Take the messages, all or none; false when they were dropped. Never waits, never raises."""
        with self._lock:
            size = self._bytes + sum(map(len, messages))
            if self._closed or size > self._max_bytes or self._held + len(messages) > self._max_messages:
                self._dropped += len(messages)
                return False
            self._new.extend(messages)
            self._held += len(messages)
            self._bytes = size
            return True

    @property
    def counts(self) -> Counts:
        """The counts so far: every message put was written, dropped, or waits."""
        with self._lock:
            return Counts(self._written, self._dropped, self._failures, self._held, self._bytes)

    def close(self, timeout_s: float) -> int:
        """Take no more, write what waits, for at most ``timeout_s``; how many messages are left, which are lost. Says so."""
        with self._lock:
            self._closed = True
        self._closing.set()
        self._thread.join(timeout_s)
        self._abandoned.set()
        left = self.counts.waiting
        if left:
            _log.error("outbox: %d events were not written within %g s and are lost", left, timeout_s)
        return left

    def _drain(self) -> None:
        waiting: deque[bytes] = deque()
        pause_s = self._first_pause_s
        while not self._abandoned.is_set():
            if not waiting:
                with self._lock:  # as short as can be: whoever puts would wait for it
                    waiting, self._new = self._new, waiting
            batch = list(itertools.islice(waiting, self._batch_messages))
            if not batch:
                if self._closing.wait(self._linger_s) and not self._new:
                    return
            elif self._tried(batch):
                for _ in batch:
                    waiting.popleft()
                pause_s = self._first_pause_s
            elif self._closing.is_set():
                self._abandoned.wait(_CLOSING_PAUSE_S)
            else:
                self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, self._longest_pause_s)

    def _tried(self, batch: list[bytes]) -> bool:
        """Whether the sink took the batch."""
        try:
            self._sink.write(batch)
        except Exception as error:  # whatever a sink raises, the thread goes on
            self._failed(error)
            return False
        size = sum(map(len, batch))
        with self._lock:
            self._held -= len(batch)
            self._bytes -= size
            self._written += len(batch)
        if self._told_s is not None:
            _log.warning("outbox: the sink takes events again")
            self._told_s = None
        return True

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._failures += 1
        now = self._monotonic()
        if self._told_s is None or now - self._told_s >= _TELL_S:
            self._told_s = now
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            _log.error("outbox: the sink takes no events, %d wait: %s", self.counts.waiting, reason)
