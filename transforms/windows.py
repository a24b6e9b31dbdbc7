"""Maintain windows: views into their rows, the rows read back, membership and profile evaluated and written.

The row is the window, so this holds no state: killed anywhere, run twice or by two processes, the rows come out the same.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam

from schemas.dead_letter import DeadLetter
from schemas.event import Event
from schemas.identity import NEVER
from schemas.instants import clock_ms, format_instant
from schemas.profile_row import LINKS, IdentityCell, ViewCell
from schemas.pseudonym import Pseudonyms
from schemas.release import Release
from schemas.view import unpack_attributes
from serving.keys import load_ring
from serving.recent import Recent
from serving.store import Store, open_store
from transforms.batch import Batch
from transforms.canary import Prepared, prepared
from transforms.changes import VIEW, Change, Known, change_of
from transforms.counters import (
    APPLIED,
    DUPLICATE,
    FORGOTTEN,
    LINK_CONFLICTS,
    OPTED_OUT,
    REFUSED,
    RULES_REFUSED,
    count,
)
from transforms.forgetting import Graves, allowed, clear_rows, forget_people, implied_people
from transforms.membership import warm_up
from transforms.moving import bury_again, move_older
from transforms.names import OneRowEach
from transforms.patience import patiently
from transforms.rows import refresh_rows
from transforms.rules_file import RulesFile

KeyedView = tuple[str, ViewCell]
ROWS: Final = "rows"
DEAD: Final = "dead"
STORE_REFUSED: Final = "store_refused"
# A batch reads some ten thousand cells, all of them objects that the collector looks at, none of them garbage that it would find.
# Looking after every 700 of them, as Python does by itself, takes a third of the time of reading them.
_OBJECTS_BETWEEN_COLLECTIONS: Final = 50_000

_log = logging.getLogger(__name__)


class Maintained(NamedTuple):
    """What one batch did: new views, copies, views that weren't wanted (by reason), keys of rows written.

    ``refused`` are views that the store refused, with why; ``conflicts`` events whose anonymous id is another user's.
    """

    new: int
    copies: int
    unwanted: dict[str, int]
    refused: list[tuple[KeyedView, str]]
    keys: list[str]
    conflicts: int = 0


class Maintainer:
    """Maintains the rows of a store; remembers what it has written, and the tombstones, as of the last batch."""

    def __init__(self, store: Store, pseudonyms: Pseudonyms | None = None) -> None:
        self._moving = None if pseudonyms is None or len(pseudonyms.ring.keys) == 1 else OneRowEach(store, pseudonyms, moves=True)
        self._store = store if self._moving is None else self._moving
        self._graves = Graves()
        self._known = Known(self._graves.time_of)
        self._graves.look(self._store)
        self._unlinkings = self._graves.unlinkings
        self._about: dict[str, int] = {}  # whom it is writing about, and how many had been buried when it began to
        self._is_clean = True

    def maintain(self, rules: Prepared, changes: Sequence[Change]) -> Maintained:
        """Make the changes: append, read the rows back, evaluate, write. Each row is touched once.

        Raises ``StoreUnavailableError`` when the store fails for now; doing it all again is then right.
        """
        forgotten: dict[str, int] = {}
        if self._moving is not None:
            self._moving.learn(cell for change in changes for cell in change.cells)
        done = self._once(rules, changes, forgotten)
        if self._moving is not None:
            bury_again(self._store, (change.key for change in changes), self._graves)
            move_older(self._moving, rules, done.keys, self._graves, self._note)
        # After the last write: who was forgotten meanwhile may have come back by it, and what was known may be gone.
        rewritten = False
        while True:
            overtaken, undone = self._overtaken(), self._links_undone()
            if not overtaken and (rewritten or not undone):
                break
            rewritten |= undone  # nothing was taken for written that no longer is: once is enough
            again = self._once(rules, changes, forgotten)
            done = again._replace(new=done.new + again.new, keys=list(dict.fromkeys([*done.keys, *again.keys])))
            if overtaken:
                clear_rows(self._store, rules, list(overtaken), graves=self._graves)
                self._about |= overtaken
        if not self._is_clean:
            self._store.purge()  # what came back for a moment is gone from rows, and still in a file
        self._about, self._is_clean = {}, True
        wanted = sum(change.view is not None for change in changes) - sum(done.unwanted.values()) - len(done.refused)
        new = min(done.new, wanted)
        return done._replace(new=new, copies=wanted - new)

    def _note(self, keys: Iterable[str]) -> None:
        """Remember whom something is to be written about; a call that fails is made again, and remembers it still."""
        for key in keys:
            self._about.setdefault(key, self._graves.burials)

    def _overtaken(self) -> dict[str, int]:
        """Look for tombstones: who was forgotten while something was written about them, and how many are buried now."""
        if self._graves.look(self._store):
            self._known.thinned()
        burials = self._graves.burials
        overtaken = {key: burials for key, then in self._about.items() if then != burials and self._graves.is_news(key, then)}
        self._is_clean = self._is_clean and not overtaken
        return overtaken

    def _links_undone(self) -> bool:
        """Whether links were undone since the last call; then nothing is known any more."""
        before, self._unlinkings = self._unlinkings, self._graves.unlinkings
        if before != self._unlinkings:
            self._known.clear()
        return before != self._unlinkings

    def _once(self, rules: Prepared, changes: Sequence[Change], forgotten: dict[str, int]) -> Maintained:
        """Make the changes by the tombstones of the last look; ids in ``forgotten`` were forgotten by this batch before."""
        store = self._store
        self._note(key for change in changes for key in (change.key, change.other) if key is not None)
        found = allowed(changes, self._graves)
        news = self._known.news(found.changes)
        views = [(change.key, change.view) for change in found.changes if change.view is not None]
        appended = store.append(views)
        refused = {refusal.position: refusal.message for refusal in appended.refused}
        lost = _written(store, list(news.cells))
        touched = [key for index, (key, _) in enumerate(views) if index not in refused]
        keys = list(dict.fromkeys([*touched, *(row for row, _ in news.cells if row not in lost)]))
        done = refresh_rows(store, rules, keys, news.relinked, told=self._note)
        lost |= done.refused
        if missing := [(row, cell) for row, cell in news.sealed.items() if row in done.unsealed]:
            lost |= {missing[refusal.position][0]: refusal.message for refusal in store.write_identity(missing)}
        refused |= {index: lost[key] for index, (key, _) in enumerate(views) if key in lost and index not in refused}
        self._known.written(news.cells)  # before anybody is forgotten: what is written later is unknown
        self._known.full(done.full)
        conflicts = self._known.conflicts(found.changes, done.owners)
        for people in (found.forgotten, implied_people(store, found.implied)):
            found.barred.extend(key for key in people if key in forgotten)
            if people := {key: time for key, time in people.items() if time > forgotten.get(key, NEVER)}:
                self._is_clean = False
                forgotten |= forget_people(store, rules, people, self._graves)
        if found.barred:  # whoever wrote them before the tombstone came may have been killed before it looked
            clear_rows(store, rules, found.barred, graves=self._graves)
        written = [view for index, view in enumerate(views) if index not in refused]
        unwanted = {
            FORGOTTEN: sum(change.view is not None for change in found.refused),
            OPTED_OUT: sum(view.time < done.counting_from.get(key, NEVER) for key, view in written if done.counting_from),
        }
        dead = [(views[index], why) for index, why in sorted(refused.items())]
        return Maintained(appended.new, 0, unwanted, dead, keys, conflicts)


def _written(store: Store, cells: Sequence[tuple[str, IdentityCell]]) -> dict[str, str]:
    """Write what rows say of their ids; rows that the store refused for good, and why.

    An anonymous id's side of a link comes first: where the user's is, the other is or has been.
    """
    links = [cell for cell in cells if cell[1].qualifier[:1] == LINKS]
    others = [cell for cell in cells if cell[1].qualifier[:1] != LINKS]
    return {
        part[refusal.position][0]: refusal.message for part in (links, others) if part for refusal in store.write_identity(part)
    }


def keyed_view(event: Event) -> KeyedView:
    """A ``listing_view`` with pseudonyms as a cell in its profile's row."""
    change = change_of(event)
    assert change is not None
    assert change.view is not None
    return change.key, change.view


@dataclasses.dataclass(eq=False)
class KeyByUser(beam.PTransform):  # type: ignore[misc]
    """Batches of events → batches of changes to rows; events that are no views are counted here, most change nothing."""

    def expand(self, events: beam.PCollection[Batch]) -> beam.PCollection[Batch]:
        """Apply to each batch."""
        return events | "Views" >> beam.ParDo(_KeyByUser()).with_output_types(Batch)


@dataclasses.dataclass(eq=False)
class MaintainWindows(beam.PTransform):  # type: ignore[misc]
    """Batches of changes → ``rows``: batches of the keys written; ``dead``: batches of dead letters.

    While the store is unavailable it waits and tries again; only a fault that stays fails the bundle.
    """

    store: str
    rules: str
    catalogue: str

    def expand(self, changes: beam.PCollection[Batch]) -> Any:
        """Apply to each batch."""
        work = _MaintainWindows(self.store, self.rules, self.catalogue)
        return changes | "Rows" >> beam.ParDo(work).with_output_types(Batch, dead=Batch).with_outputs(DEAD, main=ROWS)


class _KeyByUser(beam.DoFn):  # type: ignore[misc]
    def setup(self) -> None:
        self._others = Recent()

    def process(self, events: list[Event]) -> Iterator[Batch]:
        changes = Batch(change for event in events if (change := change_of(event)) is not None)
        others = [event.event_id for event in events if event.event_type != VIEW]
        new = sum(map(self._others.is_new, others))
        count(APPLIED, new)
        count(DUPLICATE, len(others) - new)
        if changes:
            yield changes


class _MaintainWindows(beam.DoFn):  # type: ignore[misc]
    def __init__(self, store: str, rules: str, catalogue: str) -> None:
        self._store_uri = store
        self._rules_file = RulesFile(rules, catalogue, functools.partial(count, RULES_REFUSED))

    def setup(self) -> None:
        self._store = open_store(self._store_uri)
        self._pseudonyms = Pseudonyms(load_ring(self._store_uri))
        self._prepared: tuple[Release, Prepared] | None = None
        self._made: Maintainer | None = None
        warm_up()
        gc.freeze()
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)

    def teardown(self) -> None:
        self._store.close()

    def process(self, changes: list[Change]) -> Iterator[Any]:
        done = patiently(lambda: self._maintainer().maintain(self._rules(), changes), patience_s=None)
        count(APPLIED, done.new)
        count(DUPLICATE, done.copies)
        for reason, number in done.unwanted.items():
            count(REFUSED + reason, number)
        count(REFUSED + STORE_REFUSED, len(done.refused))
        count(LINK_CONFLICTS, done.conflicts)
        yield Batch(done.keys)
        if done.refused:
            yield beam.pvalue.TaggedOutput(DEAD, Batch(refused_view(view, why, clock_ms()) for view, why in done.refused))

    def _maintainer(self) -> Maintainer:
        if self._made is None:
            self._made = Maintainer(self._store, self._pseudonyms)
        return self._made

    def _rules(self) -> Prepared:
        release = self._rules_file.current()
        if self._prepared is None or self._prepared[0] is not release:
            self._prepared = (release, prepared(release))
        return self._prepared[1]


def refused_view(view: KeyedView, why: str, now: int) -> DeadLetter:
    """The dead letter of a view that the store refused; its payload can be replayed."""
    key, cell = view
    payload = {
        "event_id": cell.event_id,
        "event_type": "listing_view",
        "event_time": format_instant(cell.time),
        "user_id": key,
        "attributes": unpack_attributes(cell.value),
        "pseudonymised": True,
    }
    return DeadLetter(
        reason=STORE_REFUSED, field=None, message=why, refused_at=format_instant(now), size=len(cell.value), payload=payload
    )
