"""``forecourt simulate``: reproducible traffic of a simulated marketplace, to a file or to Pub/Sub.

    forecourt simulate --events 20000 --users 200 --seed 7 --to file:events.jsonl.gz --truth truth.jsonl
    forecourt simulate --events 60000 --users 500 --rate 500 --late 0.02 --to pubsub://demo/topics/events
    forecourt simulate --experiments experiments.yaml --experiment featured_first --effect electric=0.3 --to file:events.jsonl.gz

A file gets event times that end at ``--until``. Pub/Sub with a ``--rate`` gets live ones: the time of sending, unless late.
With an experiment every session gets an impression, by its assignment, some get a click, and what sessions do that were shown
the personalised answer is multiplied by 1 + the effect of their segment. These events come on top of ``--events``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import itertools
import json
import math
import pathlib
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, Final, NamedTuple, NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.market import DUPLICATE, EVENT, EVENTS_PER_SESSION, POISON, Emission, Market, events_of
from pipelines.market_experiment import Planted, Trial
from pipelines.poison import REASONS, TIMELESS_REASONS
from schemas.errors import EXIT_FAILED, EXIT_OK, ConfigError, ForecourtError, shown
from schemas.experiments import Experiments
from schemas.instants import DAY_MS, SECOND_MS, clock_ms, parse_instant
from serving.experiments_file import load_experiments

T = TypeVar("T")
Write = Callable[[bytes], None]

PATIENCE_S: Final = 2  # how long a run may take without showing progress
FIRST_PUBLISH_S: Final = 10  # a server that isn't there is told from one that is slow by the first message
PUBLISH_S: Final = 60
SHORTEST_SLEEP_S: Final = 0.001
_UNREACHABLE: Final = (
    "with the emulator, set PUBSUB_EMULATOR_HOST to where it runs (`forecourt emulators` starts one), else check the network and "
    "run `gcloud auth application-default login`"
)
_EFFECT: Final = re.compile(r"(?P<segment>[a-z][a-z0-9_]*)=(?P<relative>[-+]?(\d+(\.\d*)?|\.\d+))", re.ASCII)
_TOPIC: Final = re.compile(r"pubsub://(?P<project>[^/\s]+)/topics/(?P<topic>[^/\s]+)")


class SinkError(ForecourtError):
    """The target doesn't take what is sent; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The command line, checked. ``target`` is ``file:PATH`` or ``pubsub://PROJECT/topics/TOPIC``; ``rate`` 0 is unbounded."""

    market: Market
    target: str
    rate: float = 0.0
    truth: str | None = None
    json: bool = False
    planted: Planted | None = None

    def __post_init__(self) -> None:
        if not (self.target.startswith("file:") and len(self.target) > len("file:")) and not _TOPIC.fullmatch(self.target):
            msg = f"to == {shown(self.target)}, must be file:PATH or pubsub://PROJECT/topics/TOPIC"
            raise ConfigError(msg)
        if not 0 <= self.rate < math.inf:
            msg = f"rate == {self.rate}, must be 0 (as fast as possible) or a number of messages a second"
            raise ConfigError(msg)

    @property
    def live(self) -> bool:
        """Whether an event's time is the time of sending."""
        return _is_live(self.target, self.rate)


def _is_live(target: str, rate: float) -> bool:
    return rate > 0 and target.startswith("pubsub:")


class Sent(NamedTuple):
    """What went out: ``published`` = ``events`` + ``duplicates`` + ``poison``, and ``late`` of the events were."""

    events: int
    published: int
    duplicates: int
    poison: int
    late: int
    poison_by_reason: dict[str, int]
    seconds: float


def parse_args(argv: Sequence[str], clock: Callable[[], int] = clock_ms) -> Config:
    """The config of a command line; exits with status 2 and one clear line when that is not possible."""
    parser = argparse.ArgumentParser(prog="forecourt simulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--to", required=True, metavar="URI", help="file:PATH (.gz too) or pubsub://PROJECT/topics/TOPIC")
    add("--events", type=int, default=10_000, metavar="N", help="clean events; duplicates and poison come on top (10000)")
    add("--users", type=int, default=100, metavar="N", help="(100)")
    add("--seed", type=int, default=0, metavar="N", help="the same seed and options give the same events (0)")
    add("--rate", type=float, default=0.0, metavar="PER_S", help="messages a second; 0: as fast as possible (0)")
    add("--days", type=float, default=10.0, metavar="D", help="span of the event times (10)")
    add("--until", metavar="TIME", help="end of the event times, such as 2026-05-01T12:00:00Z (now)")
    add("--late", type=float, default=0.0, metavar="SHARE", help="share of events held back by minutes to two days (0)")
    add("--duplicates", type=float, default=0.0, metavar="SHARE", help="share of events sent a second time, any time later (0)")
    add("--out-of-order", type=float, default=0.0, metavar="SHARE", help="share of events held back by a few places (0)")
    add("--poison", type=float, default=0.0, metavar="SHARE", help="messages to be refused, as a share of the events (0)")
    add("--anonymous", type=float, default=0.3, metavar="SHARE", help="share of users who start without a user id (0.3)")
    add("--experiments", metavar="FILE", help="an experiments file (YAML), by which every session is assigned")
    add("--experiment", metavar="NAME", help="the experiment of that file that has effects; sessions are assigned in its layer")
    add(
        "--effect",
        action="append",
        default=[],
        metavar="SEGMENT=RELATIVE",
        help="such as electric=0.3, 30 %% more; repeatable (none)",
    )
    add("--truth", metavar="FILE", help="write the clean events here, as JSON lines (.gz too)")
    add("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args(argv)
    try:
        return _config_of(args, clock())
    except ConfigError as error:
        _refuse(parser, error)


def _config_of(args: argparse.Namespace, now: int) -> Config:
    end = now
    if args.until is not None:
        try:
            end = parse_instant(args.until)
        except ValueError as error:
            msg = f"until == {shown(args.until)}, {error}"
            raise ConfigError(msg) from None
    if not 0 < args.days * DAY_MS <= end:
        msg = f"days == {args.days}, must be above 0 and must not reach back beyond 1970"
        raise ConfigError(msg)
    # A market of the right length even when live, where only the order and the mean gap of the events are used.
    length = args.days * DAY_MS
    if _is_live(args.to, args.rate):
        length = min(end, args.events / args.rate * SECOND_MS)
    shares = {name: getattr(args, name) for name in ("late", "duplicates", "out_of_order", "poison", "anonymous")}
    reasons = REASONS if args.to.startswith("pubsub:") else TIMELESS_REASONS
    start = end - max(math.ceil(length), 1)
    market = Market(args.events, args.users, args.seed, start, end, **shares, reasons=reasons)
    return Config(market, args.to, args.rate, args.truth, args.json, _planted_of(args))


def _planted_of(args: argparse.Namespace) -> Planted | None:
    for name, other in (("experiments", "experiment"), ("experiment", "experiments")):
        if getattr(args, name) is not None and getattr(args, other) is None:
            msg = f"{name} == {shown(getattr(args, name))}, must come with --{other}"
            raise ConfigError(msg)
    if args.experiments is None:
        if args.effect:
            msg = f"effect == {shown(args.effect[0])}, must come with --experiments and --experiment"
            raise ConfigError(msg)
        return None
    effects: dict[str, float] = {}
    for text in args.effect:
        found = _EFFECT.fullmatch(text)
        if found is None or found["segment"] in effects:
            msg = f"effect == {shown(text)}, must be SEGMENT=RELATIVE, such as electric=0.3, once for a segment"
            raise ConfigError(msg)
        effects[found["segment"]] = float(found["relative"])
    return Planted(_experiments_in(args.experiments), args.experiment, effects)


def _experiments_in(path: str) -> Experiments:
    try:
        return load_experiments(path)
    except ForecourtError as error:
        msg = f"experiments == {shown(path)}, must be an experiments file that can be used: {error}"
        raise ConfigError(msg) from error


def _refuse(parser: argparse.ArgumentParser, error: ConfigError) -> NoReturn:
    """Messages name a field; the person at the command line knows it as an option."""
    field, rest = str(error).split(" ", 1)
    parser.error(f"--{field.replace('_', '-')} {rest}")


def simulate(config: Config, write: Write, write_truth: Write, clock: Callable[[], int] = clock_ms) -> Sent:
    """Emits the config's market through ``write``, its clean events through ``write_truth`` too."""
    began = time.monotonic()
    market = config.market
    trial = None if config.planted is None else Trial(market, config.planted)
    emissions = events_of(market, clock if config.live else None, trial)
    if config.rate:
        emissions = paced(emissions, config.rate)
    events = market.events + (0 if trial is None else market.events // EVENTS_PER_SESSION)  # about so many
    total = events + round(market.duplicates * events) + round(market.poison * events)
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    late = 0
    for emission in watched(emissions, total):
        write(emission.data)
        kinds[emission.kind] += 1
        late += emission.late
        if emission.kind == EVENT:
            write_truth(emission.data)
        elif emission.kind == POISON:
            reasons[emission.poison_reason] += 1
    seconds = round(time.monotonic() - began, 3)
    return Sent(kinds[EVENT], kinds.total(), kinds[DUPLICATE], kinds[POISON], late, dict(sorted(reasons.items())), seconds)


def paced(
    emissions: Iterator[Emission],
    rate: float,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Emission]:
    """The emissions, the n-th of them drawn no earlier than n / rate seconds after the first."""
    began = monotonic()
    for count in itertools.count():
        # Wait before drawing: a live event takes its time when it is drawn.
        wait = began + count / rate - monotonic()
        if wait > SHORTEST_SLEEP_S:
            sleep(wait)
        emission = next(emissions, None)
        if emission is None:
            return
        yield emission


def watched(items: Iterable[T], total: int) -> Iterator[T]:
    """The items, with progress on stderr when they take longer than ``PATIENCE_S``."""
    began = shown_at = time.monotonic()
    texts = ("{task.completed:,} of {task.total:,}", "{task.fields[speed]:,.0f} messages/s")
    columns = (TextColumn("simulate"), BarColumn(), *map(TextColumn, texts))
    with contextlib.ExitStack() as stack:
        progress: Progress | None = None
        for done, item in enumerate(items):
            now = time.monotonic()
            if now - shown_at > (0.2 if progress else PATIENCE_S):
                shown_at = now
                if progress is None:
                    progress = stack.enter_context(Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)))
                    task = progress.add_task("simulate", total=total, speed=0.0)
                progress.update(task, completed=done, speed=done / (now - began))
            yield item
        if progress is not None:
            progress.update(task, completed=total)


@contextlib.contextmanager
def sink_of(target: str) -> Iterator[Write]:
    """A function that sends one message to the target; everything has arrived when the context ends without an error."""
    topic = _TOPIC.fullmatch(target)
    if topic is None:
        with _lines(target.removeprefix("file:")) as write:
            yield write
    else:
        with _topic(f"projects/{topic['project']}/topics/{topic['topic']}") as write:
            yield write


@contextlib.contextmanager
def _lines(path: str) -> Iterator[Write]:
    with contextlib.ExitStack() as stack:
        file: IO[bytes] | gzip.GzipFile = stack.enter_context(pathlib.Path(path).open("wb"))
        if path.endswith(".gz"):
            # No name and no time in the header: the same events are the same bytes.
            file = stack.enter_context(gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=3, mtime=0))

        def write(data: bytes) -> None:
            file.write(data + b"\n")

        yield write


@contextlib.contextmanager
def _topic(topic: str) -> Iterator[Write]:
    from google.api_core.exceptions import ClientError, GoogleAPIError, NotFound
    from google.api_core.retry import Retry, if_transient_error
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.pubsub_v1 import PublisherClient, types

    flow = types.PublishFlowControl(10_000, 20 << 20, types.LimitExceededBehavior.BLOCK)
    batches = types.BatchSettings(max_messages=500, max_bytes=1 << 20, max_latency=0.01)
    waiting: deque[Any] = deque()
    answered = False

    def write(data: bytes) -> None:
        nonlocal answered
        patience = PUBLISH_S if answered else FIRST_PUBLISH_S
        retry = Retry(predicate=if_transient_error, initial=0.1, maximum=2.0, timeout=patience)
        waiting.append(client.publish(topic, data, retry=retry, timeout=patience))
        while waiting and (not answered or waiting[0].done()):
            waiting.popleft().result(timeout=patience + 5)
            answered = True

    try:
        client = PublisherClient(batches, types.PublisherOptions(flow_control=flow))
        yield write
        while waiting:
            waiting.popleft().result(timeout=PUBLISH_S + 5)
    except NotFound as error:
        msg = f"{topic}: there is no such topic; create it, and a subscription (without one, messages are lost)"
        raise SinkError(msg) from error
    except ClientError as error:
        msg = f"{topic}: Pub/Sub refuses a message: {error.message}"
        raise SinkError(msg) from error
    except (GoogleAPIError, GoogleAuthError, TimeoutError) as error:
        msg = f"{topic}: Pub/Sub doesn't take messages ({type(error).__name__}); {_UNREACHABLE}"
        raise SinkError(msg) from error


def run(argv: Sequence[str]) -> int:
    """Exit status of the command: 0 everything was sent, 1 it was not, 2 bad arguments."""
    try:
        config = parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        with contextlib.ExitStack() as stack:
            write = stack.enter_context(sink_of(config.target))
            write_truth = stack.enter_context(_lines(config.truth)) if config.truth else lambda data: None
            sent = simulate(config, write, write_truth)
    except (SinkError, OSError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"forecourt simulate: {reason}", file=sys.stderr)
        return EXIT_FAILED
    if config.json:
        print(json.dumps(sent._asdict()))
    else:
        parts = f"{sent.events:,} events ({sent.late:,} late), {sent.duplicates:,} duplicates, {sent.poison:,} poison"
        print(f"{sent.published:,} messages to {config.target} in {sent.seconds:.1f} s: {parts}")
    return EXIT_OK
