"""What Google's clients raise, as the store's own faults: which pass, which stay, and what would be right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc
from google.api_core import exceptions as api
from google.auth.exceptions import GoogleAuthError

from schemas.errors import StoreError, StoreTimeoutError, StoreUnavailableError

EMULATOR: Final = "BIGTABLE_EMULATOR_HOST"
PERMANENT: Final = (
    api.InvalidArgument,
    api.OutOfRange,
    api.FailedPrecondition,
    api.NotFound,
    api.PermissionDenied,
    api.Unauthenticated,
)


@contextmanager
def translated_faults(uri: str, deadline_s: float) -> Iterator[None]:
    """Google's exceptions as ``StoreUnavailableError`` and ``StoreError``; ``uri`` and the deadline are for their messages."""
    try:
        yield
    except api.GoogleAPICallError as error:
        raise fault_of(uri, error, deadline_s) from error
    except (api.RetryError, grpc.RpcError, TimeoutError) as error:
        raise fault_of(uri, error, deadline_s) from error
    except GoogleAuthError as error:
        msg = f"store {uri}: {str(error).splitlines()[0]}"
        raise StoreError(msg) from error


def fault_of(uri: str, error: BaseException, deadline_s: float) -> StoreError:
    """The store's fault for one of Google's, which may be within another."""
    reason = str(error).strip().splitlines()[0][:200] if str(error) else type(error).__name__
    if isinstance(error, api.NotFound):
        return StoreError(f"store {uri}: table or family missing ({reason}); create it: forecourt store init --store {uri}")
    if isinstance(error, PERMANENT):
        return StoreError(f"store {uri}: {reason}")
    where = os.environ.get(EMULATOR)
    hint = f"is the emulator at {EMULATOR}={where} running (forecourt emulators)?" if where else "can this machine reach Bigtable?"
    kind = StoreTimeoutError if isinstance(error, api.DeadlineExceeded | api.Cancelled | TimeoutError) else StoreUnavailableError
    return kind(f"store {uri} does not answer within {deadline_s:g} s: {reason}; {hint}")
