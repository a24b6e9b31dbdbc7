"""Whoever holds a remote lock keeps it, however long it takes; whoever has lost it changes nothing any more."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from schemas.errors import StoreUnavailableError
from schemas.ledger import Entry
from tests.memory_files import OBJECTS
from transforms import whole_files
from transforms.ledger import change_ledger, ledger_path, with_entries
from transforms.whole_files import LockedError, alone

LOCK = "memory://bucket/lock"
ARCHIVE = "memory://bucket/archive"
OTHERS = b'{"token":"another","at":9999999999999}'


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"CLAIM_SETTLES_S": 0.01, "CLAIM_RENEWED_S": 0.02, "CLAIM_LASTS_MS": 150, "LOCK_WAIT_S": 0.1}.items():
        monkeypatch.setattr(whole_files, name, value)
    OBJECTS.clear()
    yield
    OBJECTS.clear()


def test_a_claim_is_renewed_while_it_is_held() -> None:
    with alone(LOCK) as still_ours:
        time.sleep(0.4)
        with pytest.raises(LockedError, match=f"lock == {LOCK}, must be free: another process"), alone(LOCK):
            pass
        still_ours()
    assert LOCK not in OBJECTS
    with alone(LOCK):
        pass


def test_a_claim_that_nobody_renews_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_files, "LOCK_WAIT_S", 1.0)
    OBJECTS[LOCK] = b'{"token":"killed","at":0}'
    with alone(LOCK) as still_ours:
        still_ours()


def test_who_has_lost_it_is_told_and_does_not_take_the_others_away() -> None:
    with alone(LOCK) as still_ours:
        OBJECTS[LOCK] = OTHERS
        with pytest.raises(StoreUnavailableError, match=f"lock == {LOCK}, must be ours until the change is made"):
            still_ours()
        time.sleep(0.06)
    assert OBJECTS[LOCK] == OTHERS


def test_a_ledger_that_another_changes_may_be_changed_later() -> None:
    lock = f"{ARCHIVE}/_identity/_lock"
    with alone(lock), pytest.raises(StoreUnavailableError, match="must be free"):
        change_ledger(ARCHIVE, lambda ledger: ledger)

    def overtaken(ledger: pa.Table) -> pa.Table:
        OBJECTS[lock] = OTHERS
        return with_entries(ledger, [Entry("opt_out", "1:00", 5)])

    with pytest.raises(StoreUnavailableError, match="must be ours"):
        change_ledger(ARCHIVE, overtaken)
    assert ledger_path(ARCHIVE) not in OBJECTS
