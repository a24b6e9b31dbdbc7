"""The segments of a visitor for the gateway: their rows read, within a deadline, and always an answer.

A user's row answers for all of the person. A browser's that is linked to a user says so, and the user's is read next. Who has no
row yet is answered from their browser's, as the link is on its way. Whoever opted out, under any name, has no segments.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, Literal, NamedTuple

from cachetools import TTLCache

from schemas.errors import ConfigError
from schemas.profile_row import ProfileRow
from schemas.pseudonym import Pseudonyms
from serving.breaker import Breaker
from serving.row_loader import Limits, Loaded, RowLoader
from serving.segments import Segment, segments_at
from serving.store.rows import RowReader
from serving.whose import followed, is_anothers, names_in, opted_out, row_of_names, says_nothing

CACHE_ROWS: Final = 100_000
CACHE_TTL_S: Final = 2.0

Source = Literal["store", "cache", "none"]
Reason = Literal[
    "unknown_user", "no_segments", "opted_out", "withdrawn", "timeout", "store_down", "overloaded", "bad_row", "clock_behind"
]


class SegmentsRead(NamedTuple):
    """A user's segments, highest score first, or why there are none; ``as_of`` in ms UTC, ``age_ms`` since then."""

    segments: tuple[Segment, ...]
    rule_version: int | None
    as_of: int | None
    age_ms: int | None
    source: Source
    reason: Reason | None


class RowRead(NamedTuple):
    """The row that answers for a visitor, and where it is from; without one, why.

    ``linked``: it is a user's, and the browser that was asked for is linked to that user.
    """

    row: ProfileRow | None
    source: Source
    reason: Reason | None
    linked: bool = False


class SegmentReader:
    """Reads users' segments. Used in one event loop.

    ``pseudonyms`` give the rows' keys of a raw id, ``withdrawn()`` the segments that must not be offered now. A row is kept for
    ``ttl_s`` seconds, also one that isn't there: so long may a view take to show.
    """

    def __init__(
        self,
        rows: RowReader,
        pseudonyms: Pseudonyms,
        *,
        withdrawn: Callable[[], Collection[str]] = tuple,
        limits: Limits = Limits(),  # noqa: B008  (immutable)
        ttl_s: float = CACHE_TTL_S,
        cache_rows: int = CACHE_ROWS,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.breaker = Breaker()
        self._pseudonyms, self._withdrawn, self._deadline_s = pseudonyms, withdrawn, limits.deadline_s
        self._several_keys = len(pseudonyms.ring.keys) > 1
        self._cache: TTLCache[str, ProfileRow] = TTLCache(cache_rows, ttl_s, timer)
        self._loader = RowLoader(rows, self.breaker, limits, self._keep)

    async def read(self, user_id: str | None, anonymous_id: str | None = None, *, now: int) -> SegmentsRead:
        """The segments at ``now`` (ms UTC) of the user, where they are new or not known of the browser.

        Within the deadline; it doesn't raise for a fault of the store.
        """
        return self.answer(await self.read_row(user_id, anonymous_id), now)

    async def read_row(self, user_id: str | None, anonymous_id: str | None = None) -> RowRead:
        """The row behind the answer, with what else it holds."""
        raw_id = user_id or anonymous_id
        if not raw_id:
            return RowRead(None, "none", "unknown_user")
        if anonymous_id and user_id and anonymous_id != user_id:
            return await self._read_rows(self._pseudonyms.names(user_id), self._pseudonyms.names(anonymous_id))
        if self._several_keys:
            return await self._read_rows(self._pseudonyms.names(raw_id))
        key = self._pseudonyms(raw_id)
        kept = self._cache.get(key)
        if kept is not None:
            return RowRead(kept, "cache", None) if kept.link is None else await self._followed(kept, "cache", self._until_s())
        until_s = self._until_s()
        row = await self._loader.load(key, until_s)
        if not isinstance(row, ProfileRow):
            return RowRead(None, "none", row)
        return RowRead(row, "store", None) if row.link is None else await self._followed(row, "store", until_s)

    def answer(self, read: RowRead, now: int) -> SegmentsRead:
        """What a row says at an instant (ms UTC)."""
        row, source, reason, _ = read
        if row is None:
            return SegmentsRead((), None, None, None, source, reason)
        if opted_out(row):
            return SegmentsRead((), None, None, None, source, "opted_out")
        membership = row.membership
        if membership is None:
            return SegmentsRead((), None, None, None, source, "unknown_user")
        about = membership.rule_version, membership.as_of, max(0, now - membership.as_of)
        try:
            held = segments_at(membership, now)
        except ConfigError:  # the row is from further ahead than clocks may differ
            return SegmentsRead((), *about, source, "clock_behind")
        withdrawn = self._withdrawn()
        offered = tuple(segment for segment in held if segment.name not in withdrawn)
        return SegmentsRead(offered, *about, source, None if offered else "withdrawn" if held else "no_segments")

    def forget(self, raw_id: str, others: Iterable[str] = ()) -> None:
        """Read the id's rows anew the next time, and those of other keys."""
        for key in (*self._pseudonyms.names(raw_id), *others):
            self._cache.pop(key, None)
            self._loader.forget(key)

    @property
    def cached_rows(self) -> int:
        """Rows in the cache, some of which may have had their time."""
        return int(self._cache.currsize)

    async def close(self) -> None:
        """End reads that are under way, and give back the connection."""
        await self._loader.close()

    async def _read_rows(self, own: tuple[str, ...], beside: tuple[str, ...] = ()) -> RowRead:
        """The row that answers for an id's names, and for those of a browser that was seen with it: both in one read."""
        until_s = self._until_s()
        found = await self._found((*own, *beside), until_s)
        mine, source = _one(found.rows[: len(own)]), found.source
        if not isinstance(mine, ProfileRow):
            return RowRead(None, "none", mine)
        browser = _one(found.rows[len(own) :]) if beside else None
        if isinstance(browser, str) and not opted_out(mine):  # who knows whether they opted out there
            return RowRead(None, "none", browser)
        if not isinstance(browser, ProfileRow) or is_anothers(browser, own if mine.link is None else (*own, mine.link.other)):
            browser = None
        if browser is not None and opted_out(browser):  # the strictest of a person counts
            return RowRead(browser, source, None)
        if mine.link is not None:
            return await self._followed(mine, source, until_s)
        if browser is not None and says_nothing(mine) and not opted_out(mine):
            return RowRead(browser, source, None)
        return RowRead(mine, source, None, browser is not None and browser.link is not None)

    async def _followed(self, mine: ProfileRow, source: Source, until_s: float) -> RowRead:
        """The row of the user whom a row belongs to; the row itself where that opted out, for then no other matters."""
        if mine.link is None or opted_out(mine):
            return RowRead(mine, source, None)
        found = await self._found(names_in(mine.link, self._pseudonyms), until_s)
        user = _one(found.rows)
        source = found.source if source == "cache" else source
        if not isinstance(user, ProfileRow):
            return RowRead(None, "none", user)
        row = followed(mine, user)
        return RowRead(row, source, None, linked=row is user)

    def _until_s(self) -> float:
        return asyncio.get_running_loop().time() + self._deadline_s

    async def _found(self, keys: Sequence[str], until_s: float) -> _Found:
        rows: dict[str, Loaded] = {key: kept for key in keys if (kept := self._cache.get(key)) is not None}
        missing = [key for key in keys if key not in rows]
        if missing and self._several_keys:  # all at once: between two reads a row may be moved from one name to the other
            missing = list(keys)
        if missing:
            rows.update(zip(missing, await self._loader.load_all(missing, until_s), strict=True))
        return _Found([rows[key] for key in keys], "store" if missing else "cache")

    def _keep(self, row: ProfileRow) -> None:
        self._cache[row.key] = row


class _Found(NamedTuple):
    rows: list[Loaded]  # in the order asked
    source: Source


def _one(rows: Sequence[Loaded]) -> Loaded:
    """The row that counts of an id's, or why there is none: with one unread nobody can tell whether they opted out."""
    read: list[ProfileRow] = []
    for row in rows:
        if not isinstance(row, ProfileRow):
            return row
        read.append(row)
    return row_of_names(read)
