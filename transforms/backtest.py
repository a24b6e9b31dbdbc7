"""A rule change tried on the archive: the old rules, the new ones and the new thresholds swept, all in one walk over the days.

Items → slices → shards → a ``Tally`` that the shards add up to, as a night has it (``transforms.night``).
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam
import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.backtest import COURSES, Mover
from schemas.catalogue import Catalogue
from schemas.instants import DAY_MS, date_of, parse_date
from schemas.rules import MAX_WINDOW_MS, Rule, RuleSet, attributes_of
from transforms.archived_people import PATH, KnowPeople, Register, known_at, of_people
from transforms.counters import READ, count
from transforms.event_columns import Wanted, between, read_events
from transforms.kernel import COUNTS, INSIDE_AT_END, MEMBERS, days_of
from transforms.membership import RuleArrays, Rules, conditions_of
from transforms.shards import Shard, shard_of
from transforms.slices import WORK, Item, SliceFile, is_of, slice_at, slices_of
from transforms.stopping import go_on
from transforms.sweep import swept

MAX_MOVERS: Final = 20
RULES_AT_ONCE: Final = 256  # a byte for each of them and each user of a shard
WINDOW_DAYS: Final = MAX_WINDOW_MS // DAY_MS
NOWHERE: Final = -1


class Trials(NamedTuple):
    """The distinct rules to try, ``compared`` of them old or new ones, those of the sweeps behind; and who has which.

    ``old``, ``new`` and ``sweeps`` are places in ``rules`` by segment (``names``): ``NOWHERE``, or none, where it isn't there.
    """

    rules: tuple[Rule, ...]
    compared: int
    names: tuple[str, ...]
    old: tuple[int, ...]
    new: tuple[int, ...]
    sweeps: tuple[tuple[int, ...], ...]


class Tally(NamedTuple):
    """What the days came to, for some users: the parts of the work add up to it.

    ``counts`` are by rule, summed over the days, members at the end; ``members`` by day and compared rule; ``courses`` by segment
    users by old course, then new one, both as the kernel has them; ``changed`` the users in other segments at the end, ``movers``
    those of them with the most.
    """

    events: int
    users: int
    changed: int
    counts: list[list[int]]
    members: list[list[int]]
    courses: list[list[int]]
    movers: list[Mover]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a backtest does: all that the workers must know; ``first`` and ``last`` are dates, ``spill`` and keys as a night's.

    Without ``spill``, what is known of people lies in ``folder``.
    """

    first: str
    last: str
    old: RuleSet
    new: RuleSet
    catalogue: Catalogue
    shards: int
    size: int
    spill: str | None
    archive: str = ""
    folder: str = ""
    key_from: str | None = None
    version: int | None = None

    @property
    def register(self) -> Register:
        """Whom to find first."""
        end, folder = self.start + self.days * DAY_MS, self.spill or self.folder
        return Register(self.archive, end, folder, self.spill, key_from=self.key_from, version=self.version)

    @property
    def start(self) -> int:
        """00:00 of the first day, ms UTC."""
        return parse_date(self.first)

    @property
    def days(self) -> int:
        """How many days there are."""
        return (parse_date(self.last) - self.start) // DAY_MS + 1

    @property
    def dates(self) -> list[str]:
        """The dates that are read: ten before the first day, then the days."""
        instants = (self.start + day * DAY_MS for day in range(-WINDOW_DAYS, self.days))
        return [date_of(instant) for instant in instants if instant >= 0]

    @functools.cached_property
    def trials(self) -> Trials:
        """What is tried."""
        return trials_of(self.old, self.new)


def trials_of(old: RuleSet, new: RuleSet) -> Trials:
    """The rules that two rule sets and the sweeps of the second are made of, segments in order of the second."""
    before, after = ({rule.name: rule for rule in rules.rules} for rules in (old, new))
    names = tuple(dict.fromkeys([*after, *before]))
    sides = [[None if (rule := rules.get(name)) is None else _bare(rule) for name in names] for rules in (before, after)]
    sweeps = [[_bare(rule) for rule in swept(after[name])] if name in after else [] for name in names]
    compared = dict.fromkeys(rule for side in sides for rule in side if rule is not None)
    rules = tuple(dict.fromkeys([*compared, *(rule for sweep in sweeps for rule in sweep)]))
    places = {rule: place for place, rule in enumerate(rules)}
    old_places, new_places = (tuple(NOWHERE if rule is None else places[rule] for rule in side) for side in sides)
    return Trials(rules, len(compared), names, old_places, new_places, tuple(tuple(map(places.__getitem__, s)) for s in sweeps))


def nothing(plan: Plan) -> Tally:
    """The zero of ``added``."""
    trials = plan.trials
    return Tally(
        0,
        0,
        0,
        [[0] * COUNTS for _ in trials.rules],
        [[0] * trials.compared for _ in range(plan.days)],
        [[0] * len(COURSES) ** 2 for _ in trials.names],
        [],
    )


def added(tallies: Iterable[Tally]) -> Tally:
    """The parts of a tally as one; at least one part."""
    events, users, changed, counts, members, courses, movers = zip(*tallies, strict=True)
    return Tally(
        sum(events),
        sum(users),
        sum(changed),
        _summed(counts),
        _summed(members),
        _summed(courses),
        first_movers(itertools.chain.from_iterable(movers)),
    )


def first_movers(movers: Iterable[Mover]) -> list[Mover]:
    """Those with the most segments that differ, at most ``MAX_MOVERS``, of equals by pseudonym."""
    return heapq.nsmallest(MAX_MOVERS, movers, key=lambda mover: (-len(mover.gained) - len(mover.lost), mover.user))


def cut(item: Item, plan: Plan, people: str = "") -> Iterator[tuple[int, Any]]:
    """(shard, slice) of an item's events; ``people`` is where they were left."""
    rules = RuleSet(plan.new.version, plan.trials.rules)
    wanted = Wanted(tuple(sorted(frozenset().union(*(attributes_of(rule.when) for rule in rules.rules)))))
    events = read_events(item.paths, plan.catalogue, wanted)
    count(READ, len(events))
    events = of_people(events, known_at(people))
    events = between(events, parse_date(plan.dates[0]), plan.start + plan.days * DAY_MS)
    slices = SliceFile(plan.spill)
    for shard, table in slices_of(events, conditions_of(rules), plan.shards, packed=False):
        yield shard, slices.add(table)
    count(WORK, item.size)


def tally_of(shard: Shard, plan: Plan, arrays: RuleArrays) -> Tally:
    """A shard's part of the backtest."""
    trials = plan.trials
    places = np.concatenate(([0], np.cumsum(shard.views)))[shard.offsets]
    views = (shard.times[shard.views], shard.bits[shard.views], places, plan.start, plan.days)
    walked = []
    for first in range(0, len(trials.rules), RULES_AT_ONCE):
        counts, courses = days_of(*views, *(array[first : first + RULES_AT_ONCE] for array in arrays))
        walked.append((counts, courses[:, : max(trials.compared - first, 0)]))
    counts = np.concatenate([counts for counts, _ in walked], axis=1)
    courses = np.concatenate([courses for _, courses in walked] + [np.zeros((len(shard.users), 1), np.uint8)], axis=1)
    totals = counts.sum(axis=0)
    totals[:, MEMBERS] = counts[-1, :, MEMBERS]
    old, new = courses[:, trials.old], courses[:, trials.new]  # the last column, of zeros, is NOWHERE's
    crossed = [np.bincount(pair, minlength=len(COURSES) ** 2).tolist() for pair in (old.T * len(COURSES) + new.T)]
    members = counts[:, : trials.compared, MEMBERS].tolist()
    inside_old, inside_new = old & INSIDE_AT_END, new & INSIDE_AT_END
    changed = int((inside_old != inside_new).any(axis=1).sum())
    movers = movers_of(shard.users, trials.names, inside_old, inside_new)
    return Tally(len(shard.times), len(shard.users), changed, totals.tolist(), members, crossed, movers)


def movers_of(users: Sequence[str], names: tuple[str, ...], old: NDArray[Any], new: NDArray[Any]) -> list[Mover]:
    """The users whose segments differ most; ``old`` and ``new`` say who is inside, shape (users, segments)."""
    differ = (old != new).sum(axis=1)
    most = heapq.nsmallest(MAX_MOVERS, np.flatnonzero(differ).tolist(), key=lambda user: (-differ[user], users[user]))
    return [
        Mover(
            user=users[user],
            gained=[name for name, was, is_ in zip(names, old[user], new[user], strict=True) if is_ and not was],
            lost=[name for name, was, is_ in zip(names, old[user], new[user], strict=True) if was and not is_],
        )
        for user in most
    ]


def encode_tally(tally: Tally) -> bytes:
    """The tally as JSON."""
    return msgspec.json.encode(tally)


def decode_tally(text: bytes) -> Tally:
    """The tally in JSON that ``encode_tally`` made."""
    return msgspec.json.decode(text, type=Tally)


@dataclasses.dataclass(eq=False)
class TryRules(beam.PTransform):  # type: ignore[misc]
    """Items of the archive, of all dates → one ``Tally``: ``KnowPeople → CutSlices → ShardByUser → WalkDays → AddUp``."""

    plan: Plan

    def expand(self, items: beam.PCollection[Item]) -> beam.PCollection[Tally]:
        """Apply to all items."""
        people = items | "KnowPeople" >> KnowPeople(self.plan.register)
        return (
            items
            | "OfTheWindow" >> beam.Filter(is_of, frozenset(self.plan.dates))
            | "CutSlices" >> beam.FlatMap(cut, self.plan, beam.pvalue.AsSingleton(people[PATH])).with_output_types(tuple[int, Any])
            | "ShardByUser" >> beam.GroupByKey()
            | "WalkDays" >> beam.ParDo(_WalkDays(self.plan)).with_output_types(Tally)
            | "AddUp" >> beam.CombineGlobally(functools.partial(_sum_of, self.plan)).with_output_types(Tally)
        )


class _WalkDays(beam.DoFn):  # type: ignore[misc]
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def setup(self) -> None:
        self._arrays = Rules(RuleSet(self._plan.new.version, self._plan.trials.rules)).arrays

    def process(self, slices: tuple[int, Iterable[Any]]) -> Iterator[Tally]:
        go_on()
        yield tally_of(shard_of(map(slice_at, slices[1])), self._plan, self._arrays)
        count(WORK, self._plan.size // self._plan.shards)


def _sum_of(plan: Plan, tallies: Iterable[Tally]) -> Tally:
    return added([nothing(plan), *tallies])


def _summed(parts: Sequence[list[list[int]]]) -> Any:
    return np.sum(parts, axis=0, dtype=np.int64).tolist()


def _bare(rule: Rule) -> Rule:
    """The rule as far as it says who is a member."""
    return rule._replace(name="", min_precision=None, min_recall=None, weight=1.0, priority=0)
