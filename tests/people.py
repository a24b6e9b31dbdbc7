"""People who do everything at once, for the identity laws: events drawn by Hypothesis, and the real stream code that takes them."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from hypothesis import strategies as st

from schemas.decoding import Attributes, decode_event
from schemas.errors import StoreUnavailableError
from schemas.instants import DAY_MS, HOUR_MS, MINUTE_MS, clock_ms, format_instant
from schemas.pseudonym import Pseudonyms, pseudonymise, ring_of
from serving.store import Store
from tests import reference
from tests.reference_people import Happening, Left, forgets_of, void_until
from tests.strategies import CATALOGUE, Spec, rules_of
from tests.traffic import is_right
from transforms.canary import Prepared
from transforms.changes import Change, change_of
from transforms.windows import Maintainer

PSEUDONYMS: Final = Pseudonyms(ring_of("a key for tests, not a secret", "tests"))
ATTRIBUTES: Final = Attributes(CATALOGUE)
START: Final = clock_ms() // DAY_MS * DAY_MS - 8 * DAY_MS + 20 * HOUR_MS  # four hours later another date begins
SPECS: Final[list[Spec]] = [
    {"when": {"fuel_type": "electric"}, "min_views": 1, "enter": 0.5, "exit": 0.3},
    {"when": {"not": {"fuel_type": "electric"}}, "min_views": 2, "window": "36h", "half_life": "1h"},
]
RULES: Final = Prepared(rules_of(*SPECS))

USERS: Final = ("u0", "u1", "u2")
ANONYMOUS: Final = ("a0", "a1")
BOTH: Final = "b0"  # somebody's user id, and somebody's anonymous id
_BULK: Final = ("append", "write_identity", "delete_identity", "write_memberships")
_TYPES: Final = ("listing_view",) * 6 + ("identify", "identify", "search", "opt_out", "opt_in", "forget")


@st.composite
def happenings(draw: st.DrawFn, prefix: str, *, most: int = 12, overlap: bool = True) -> list[Happening]:
    """Distinct events of a few ids, many at one instant; ids begin with ``prefix``."""
    step = draw(st.sampled_from([MINUTE_MS, 2 * HOUR_MS, 9 * HOUR_MS, DAY_MS]))
    user = st.none() | st.sampled_from([*USERS, *([BOTH] if overlap else [])])
    anonymous = st.none() | st.sampled_from([*ANONYMOUS, *([BOTH] if overlap else [])])
    ids = st.tuples(user, anonymous).filter(any)
    rows = draw(
        st.lists(st.tuples(st.sampled_from(_TYPES), st.integers(0, 6), ids, st.sampled_from(["electric", "diesel"])), max_size=most)
    )
    events = [
        Happening(f"e{number:02}", kind, START + place * step, _named(prefix, user), _named(prefix, anonymous), {"fuel_type": fuel})
        for number, (kind, place, (user, anonymous), fuel) in enumerate(rows)
    ]
    return tellable(events)


def tellable(events: list[Happening]) -> list[Happening]:
    """The events, without those anonymous ids for which what is left can't be told.

    A forgetting takes a link away; who forgets the user once more, at a later instant, finds no anonymous id any more. Whether
    that one's views between the two instants go with it then depends on which of the two came first. Nothing may be kept that
    would tell.
    """
    while True:
        forgets = forgets_of(events)
        for number, each in enumerate(events):
            if each.pair:
                anonymous, user = each.pair
                both = forgets.get(user, set()) | forgets.get(anonymous, set())
                later = [time for time in forgets.get(user, ()) if each.time <= time]
                if any(each.time <= void_until(earlier) and earlier < time for time in later for earlier in both):
                    events = [*events[:number], each._replace(anonymous=None), *events[number + 1 :]]
                    break
        else:
            return events


def _named(prefix: str, name: str | None) -> str | None:
    return None if name is None else f"{prefix}{name}"


def wire(event: Happening) -> bytes:
    """The event as its sender writes it."""
    return json.dumps(
        {
            "event_id": event.event_id,
            "event_type": event.event_type,
            "event_time": format_instant(event.time),
            "user_id": event.user,
            "anonymous_id": event.anonymous,
            "attributes": event.attributes,
        }
    ).encode()


def changes_of(events: Iterable[Happening]) -> list[Change]:
    """What the stream makes of the messages: decoded, pseudonymised, as changes."""
    decoded = (decode_event(wire(event), ATTRIBUTES, None).event for event in events)
    return [change for event in decoded if (change := change_of(pseudonymise(event, PSEUDONYMS))) is not None]


class Killed(StoreUnavailableError):
    """A fault that a test puts in."""


class Troubled:
    """A store at one of whose calls something happens: before it, after it, or when it has done half of a bulk write."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.calls = 0
        self._at, self._when, self._action = -1, "", killed

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._called, name)

    def at(self, call: int, when: str, action: Callable[[], None]) -> None:
        """Do ``action`` at the ``call``-th call from now."""
        self._at, self._when, self._action = self.calls + call, when, action

    def quiet(self) -> bool:
        """Let nothing happen any more; whether it was still to happen."""
        due, self._at = self._at >= 0, -1
        return due

    def _called(self, name: str, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls - 1 != self._at:
            return getattr(self._store, name)(*arguments)
        action, self._at = self._action, -1
        if self._when == "half" and name in _BULK:
            order = list(arguments[0])
            random.Random(self.calls).shuffle(order)
            getattr(self._store, name)(order[: len(order) // 2])
            action()
        elif self._when == "before":
            action()
        result = getattr(self._store, name)(*arguments)
        if self._when == "after" or (self._when == "half" and name not in _BULK):
            action()
        return result


def killed() -> None:
    """Fail as a store does that goes away."""
    msg = "killed"
    raise Killed(msg)


class Stream:
    """One process: its memory, and a store that can be troubled."""

    def __init__(self, store: Store) -> None:
        self.store = Troubled(store)
        self.maintainer = Maintainer(self.store)  # type: ignore[arg-type]

    def restart(self) -> None:
        """Begin anew, with no memory."""
        self.maintainer = Maintainer(self.store)  # type: ignore[arg-type]

    def take(self, batch: Sequence[Change]) -> None:
        """Handle a batch; ``Killed`` when it must be delivered again."""
        self.maintainer.maintain(RULES, batch)


def faults_of(store: Store, left: Left) -> list[str]:
    """What rows say that they shouldn't, in words; nothing when all is right."""
    found: list[str] = []
    rows = store.read_rows([PSEUDONYMS(key) for key in left.rows])
    raw = {PSEUDONYMS(key): key for key in left.rows}
    for key, says in left.rows.items():
        row = rows[PSEUDONYMS(key)]
        owner = None if row.link is None else raw[row.link.other]
        if owner != says.alias:
            found.append(f"{key} is {owner}'s, not {says.alias}'s")
        if says.alias is not None:
            if row.emptied != "alias":
                found.append(f"{key}: {row.emptied}, {row.membership}, must be alias")
        elif says.views:
            by_name = {f"r{i}": reference.spans(says.views, spec) for i, spec in enumerate(SPECS)}
            spans = {name: each for name, each in by_name.items() if each}
            if not is_right(row, says.views, spans):
                found.append(f"{key}: {row.emptied} {row.membership} {row.profile}, must be of {says.views}")
        elif says.opted_out != (row.emptied == "opted_out") or row.membership is not None or row.profile is not None:
            found.append(f"{key}: {row.emptied} {row.membership}, must be {'opted out' if says.opted_out else 'without views'}")
        sealed = store.dump(PSEUDONYMS(key)).identity
        if key in left.named and not any(cell.qualifier == b"s" for cell in sealed):
            found.append(f"{key} has lost its sealed id")
    return found


def marks_of(raw_id: str) -> list[bytes]:
    """All forms in which an id may be found."""
    name = PSEUDONYMS(raw_id)
    hexed = name.partition(":")[2]
    return [raw_id.encode(), hexed.encode(), bytes.fromhex(hexed), PSEUDONYMS.seal(raw_id)]


def found_in(data: bytes, left: Left) -> list[str]:
    """Forgotten ids that nothing is left of, whose bytes are there all the same."""
    return [raw_id for raw_id in left.forgotten if raw_id not in left.named and any(mark in data for mark in marks_of(raw_id))]
