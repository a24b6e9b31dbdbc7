"""The segments of a user for the gateway: one row read, within a deadline, and always an answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final, Literal, NamedTuple

from cachetools import TTLCache

from schemas.errors import ConfigError
from schemas.profile_row import ProfileRow
from serving.breaker import Breaker
from serving.row_loader import Limits, RowLoader
from serving.segments import Segment, segments_at
from serving.store.rows import RowReader

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
    """A user's row, and where it is from; without one, why."""

    row: ProfileRow | None
    source: Source
    reason: Reason | None


class SegmentReader:
    """Reads users' segments. Used in one event loop.

    ``pseudonym`` gives the row's key of a raw id, ``withdrawn()`` the segments that must not be offered now. A row is kept for
    ``ttl_s`` seconds, also one that isn't there: so long may a view take to show.
    """

    def __init__(
        self,
        rows: RowReader,
        pseudonym: Callable[[str], str],
        *,
        withdrawn: Callable[[], Collection[str]] = tuple,
        limits: Limits = Limits(),  # noqa: B008  (immutable)
        ttl_s: float = CACHE_TTL_S,
        cache_rows: int = CACHE_ROWS,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.breaker = Breaker()
        self._pseudonym, self._withdrawn = pseudonym, withdrawn
        self._cache: TTLCache[str, ProfileRow] = TTLCache(cache_rows, ttl_s, timer)
        self._loader = RowLoader(rows, self.breaker, limits, self._keep)

    async def read(self, user_id: str | None, anonymous_id: str | None = None, *, now: int) -> SegmentsRead:
        """The segments at ``now`` (ms UTC) of the user, else of the browser.

        Within the deadline; it doesn't raise for a fault of the store.
        """
        return self.answer(await self.read_row(user_id, anonymous_id), now)

    async def read_row(self, user_id: str | None, anonymous_id: str | None = None) -> RowRead:
        """The row behind the answer, with what else it holds."""
        raw_id = user_id or anonymous_id
        if not raw_id:
            return RowRead(None, "none", "unknown_user")
        key = self._pseudonym(raw_id)
        kept = self._cache.get(key)
        if kept is not None:
            return RowRead(kept, "cache", None)
        loaded = await self._loader.load(key)
        if isinstance(loaded, ProfileRow):
            return RowRead(loaded, "store", None)
        return RowRead(None, "none", loaded)

    def answer(self, read: RowRead, now: int) -> SegmentsRead:
        """What a row says at an instant (ms UTC)."""
        row, source, reason = read
        if row is None:
            return SegmentsRead((), None, None, None, source, reason)
        if row.opted_out or row.emptied == "opted_out":
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

    def forget(self, raw_id: str) -> None:
        """Read the user's row anew the next time."""
        key = self._pseudonym(raw_id)
        self._cache.pop(key, None)
        self._loader.forget(key)

    @property
    def cached_rows(self) -> int:
        """Rows in the cache, some of which may have had their time."""
        return int(self._cache.currsize)

    async def close(self) -> None:
        """End reads that are under way, and give back the connection."""
        await self._loader.close()

    def _keep(self, row: ProfileRow) -> None:
        self._cache[row.key] = row
