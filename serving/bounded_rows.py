"""A reader of rows held to its word: in time, for each key its own row or a fault of it, and no other fault than the store's.

What a client does that it must not (never come back, cancel its own call, answer with something else) would else take a place
among the calls for ever, or show one visitor what is another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from schemas.errors import RowError, StoreError, StoreTimeoutError, StoreUnavailableError
from schemas.profile_row import ProfileRow
from serving.store.rows import RowReader, Rows

ATTEMPTS: Final = 2  # a client may read once more when its connection was lost
GRACE_S: Final = 0.05  # for a client to give up by itself, and say why
RECONNECT_S: Final = 1.0

T = TypeVar("T")


class BoundedRows:
    """``serving.store.rows.RowReader`` over another: it raises ``StoreError`` and nothing else, unless its task is cancelled."""

    def __init__(self, rows: RowReader) -> None:
        self._rows = rows

    async def read(self, keys: Sequence[str], deadline_s: float) -> Rows:
        """The row of each key, or its fault."""
        return await _bounded(self._checked(keys, deadline_s), ATTEMPTS * deadline_s + GRACE_S)

    async def reconnect(self) -> None:
        """Connect anew."""
        await _bounded(self._rows.reconnect(), RECONNECT_S)

    async def close(self) -> None:
        """Give back connections."""
        await self._rows.close()

    async def _checked(self, keys: Sequence[str], deadline_s: float) -> Rows:
        found = await self._rows.read(keys, deadline_s)
        return {key: _of_key(key, found.get(key)) for key in keys}


def _of_key(key: str, found: object) -> ProfileRow | RowError:
    if isinstance(found, RowError) or (isinstance(found, ProfileRow) and found.key == key):
        return found
    what = "another's row" if isinstance(found, ProfileRow) else type(found).__name__
    return RowError(f"row {key[:10]}…: the store answers with {what}, must be the row")


async def _bounded(call: Awaitable[T], within_s: float) -> T:
    try:
        async with asyncio.timeout(within_s):
            return await call
    except StoreError:
        raise
    except TimeoutError as error:
        msg = f"the store's client has not come back in time (within {within_s:g} s)"
        raise StoreTimeoutError(msg) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        msg = "the store's client has cancelled its own call"  # gRPC does when a channel is closed
        raise StoreUnavailableError(msg) from error
    except Exception as error:
        msg = f"{type(error).__name__}: {error}"
        raise StoreError(msg) from error
