"""Waiting for a store that is away: the same call again until it goes through, since writes change nothing the second time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from schemas.errors import StoreUnavailableError
from transforms.stopping import STOPPING

FIRST_WAIT_S: Final = 0.25
LONGEST_WAIT_S: Final = 5.0

T = TypeVar("T")
_log = logging.getLogger(__name__)


def patiently(call: Callable[[], T], monotonic: Callable[[], float] = time.monotonic, patience_s: float | None = 600.0) -> T:
    """What the call returns once the store is there.

    Raises the store's fault when we are asked to stop, or after ``patience_s`` (``None``: never).
    """
    wait_s, began = FIRST_WAIT_S, monotonic()
    while True:
        try:
            return call()
        except StoreUnavailableError as fault:
            if STOPPING.is_set() or (patience_s is not None and monotonic() - began > patience_s):
                raise
            _log.warning("%s; trying again in %.2g s, nothing is acknowledged meanwhile", fault, wait_s)
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
