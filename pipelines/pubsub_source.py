"""The source that reads Pub/Sub: a puller that runs ahead of the work, and acknowledgement after the write."""

from __future__ import annotations

import dataclasses
import functools
import logging
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.utils.timestamp import Duration
from google.api_core import exceptions as api
from google.cloud import pubsub_v1

from pipelines.pubsub import CALL_DEADLINE_S, PubSubError, line_of, subscription_path, unreachable
from transforms.batch import Batch
from transforms.stopping import STOPPING

MAX_MESSAGES: Final = 1_000
_PULL_DEADLINE_S: Final = 5.0
_PULLS_AHEAD: Final = 2
_LOOK_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0
_END: Final = 2**62
_FOR_GOOD: Final = (api.NotFound, api.PermissionDenied, api.Unauthenticated, api.InvalidArgument)

_log = logging.getLogger(__name__)


class Pulled(NamedTuple):
    """Messages with what acknowledges them."""

    messages: list[bytes]
    ack_ids: list[str]


@dataclasses.dataclass(frozen=True)
class BundleLimits:
    """A bundle ends after so many seconds or messages, whichever is first; idle it waits longer, up to ``idle_s``.

    ``lease_s``: extend the messages' ack deadline at the pull, for bundles that last longer than the subscription's.
    """

    seconds: float = 1.0
    messages: int = 20_000
    idle_s: float = 10.0
    lease_s: int | None = None


class Puller:
    """Pulls in a thread of its own, at most two pulls ahead of ``take``."""

    def __init__(self, subscription: str, lease_s: int | None) -> None:
        self._path = subscription
        self._lease_s = lease_s
        self._client = pubsub_v1.SubscriberClient()
        self._ahead: queue.Queue[Pulled] = queue.Queue(_PULLS_AHEAD)
        self._fault: BaseException | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._pull_on, name="pubsub-pull", daemon=True)
        self._thread.start()

    def take(self, wait_s: float) -> Pulled | None:
        """What has been pulled, up to 1,000 messages; ``None`` when nothing came within ``wait_s``."""
        if self._fault is not None and self._ahead.empty():
            raise PubSubError(unreachable(self._path, self._fault)) from self._fault
        try:
            first = self._ahead.get(timeout=wait_s)
        except queue.Empty:
            return None
        messages, ack_ids = list(first.messages), list(first.ack_ids)
        while len(messages) < MAX_MESSAGES:
            try:
                more = self._ahead.get_nowait()
            except queue.Empty:
                break
            messages += more.messages
            ack_ids += more.ack_ids
        return Pulled(messages, ack_ids)

    def acknowledge(self, ack_ids: list[str]) -> None:
        """Acknowledge messages whose work is done; a failure is logged, they come again and change nothing."""
        for start in range(0, len(ack_ids), MAX_MESSAGES):
            page = ack_ids[start : start + MAX_MESSAGES]
            try:
                self._client.acknowledge(subscription=self._path, ack_ids=page, timeout=CALL_DEADLINE_S)
            except api.GoogleAPICallError as error:
                _log.warning("%d messages could not be acknowledged and will come again: %s", len(page), line_of(error))

    def close(self) -> None:
        """Stop pulling and give back at once what was pulled and not taken."""
        self._closing.set()
        while self._thread.is_alive():
            self._give_back()
            self._thread.join(_LOOK_S)
        self._give_back()
        self._client.close()

    def _give_back(self) -> None:
        while not self._ahead.empty():
            left = self._ahead.get_nowait()
            try:
                self._client.modify_ack_deadline(
                    subscription=self._path, ack_ids=left.ack_ids, ack_deadline_seconds=0, timeout=CALL_DEADLINE_S
                )
            except api.GoogleAPICallError as error:
                _log.warning("%d messages will come again only after their deadline: %s", len(left.ack_ids), line_of(error))

    def _pull_on(self) -> None:
        wait_s = _LOOK_S
        while not (self._closing.is_set() or STOPPING.is_set()):
            try:
                self._pull_once()
                wait_s = _LOOK_S
            except api.DeadlineExceeded:
                continue  # nothing came
            except _FOR_GOOD as error:
                self._fault = error
                return
            except api.GoogleAPICallError as error:
                _log.warning("pull failed: %s; trying again in %.1f s", line_of(error), wait_s)
                self._closing.wait(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            except Exception as error:  # the thread must not end without a word
                self._fault = error
                return

    def _pull_once(self) -> None:
        response = self._client.pull(subscription=self._path, max_messages=MAX_MESSAGES, timeout=_PULL_DEADLINE_S, retry=None)
        received = type(response).pb(response).received_messages
        if not received:
            return
        pulled = Pulled([item.message.data for item in received], [item.ack_id for item in received])
        if self._lease_s is not None:
            self._client.modify_ack_deadline(
                subscription=self._path, ack_ids=pulled.ack_ids, ack_deadline_seconds=self._lease_s, timeout=CALL_DEADLINE_S
            )
        while not self._closing.is_set():
            try:
                self._ahead.put(pulled, timeout=_LOOK_S)
            except queue.Full:
                continue
            return


class _Forever(RestrictionProvider):  # type: ignore[misc]
    """A restriction that never ends by itself; each bundle claims the next offset."""

    def initial_restriction(self, _: Any) -> OffsetRange:
        return OffsetRange(0, _END)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, *_: Any) -> int:
        return 1

    def truncate(self, *_: Any) -> None:
        return None


class _Pull(beam.DoFn):  # type: ignore[misc]
    """A bundle is a claim: it takes messages for as long as its limits allow, then hands the rest of time on.

    Beam looks the parameters up by position: ``finalizer`` (the class, not called) must stand before ``tracker``.
    """

    def __init__(self, subscription: str, limits: BundleLimits) -> None:
        self._subscription = subscription
        self._limits = limits

    def setup(self) -> None:
        self._puller = Puller(self._subscription, self._limits.lease_s)

    def teardown(self) -> None:
        self._puller.close()

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        _: bytes,
        finalizer: Any = beam.DoFn.BundleFinalizerParam,
        tracker: Any = beam.DoFn.RestrictionParam(_Forever()),  # noqa: B008
    ) -> Iterator[Batch]:
        if not tracker.try_claim(tracker.current_restriction().start):
            return
        taken: list[str] = []
        finalizer.register(functools.partial(self._puller.acknowledge, taken))
        start = time.monotonic()
        while not STOPPING.is_set() and len(taken) < self._limits.messages:
            lasts = self._limits.seconds if taken else self._limits.idle_s
            left = start + lasts - time.monotonic()
            if left <= 0:
                break
            pulled = self._puller.take(min(left, _LOOK_S))
            if pulled is None:
                continue
            if not taken:
                start = time.monotonic()
            taken += pulled.ack_ids
            yield Batch(pulled.messages)
        if STOPPING.is_set():
            tracker.try_claim(_END)  # ends the restriction, and with it the pipeline
        else:
            tracker.defer_remainder(Duration.of(0))


@dataclasses.dataclass(eq=False)
class PullMessages(beam.PTransform):  # type: ignore[misc]
    """Messages of a subscription in batches, acknowledged when the bundle that handled them has ended well."""

    uri: str
    limits: BundleLimits = dataclasses.field(default_factory=BundleLimits)

    def expand(self, begin: Any) -> beam.PCollection[Batch]:
        """Read from the pipeline's start; runs until ``STOPPING`` is set."""
        pull = _Pull(subscription_path(self.uri), self.limits)
        return begin | "Start" >> beam.Impulse() | "Pull" >> beam.ParDo(pull).with_output_types(Batch)
