"""Views put into their rows as the stream does it, without one."""

from __future__ import annotations

from collections.abc import Sequence

from serving.store import Store
from transforms.canary import Prepared
from transforms.changes import Change
from transforms.windows import KeyedView, Maintained, Maintainer


def maintain_windows(store: Store, rules: Prepared, views: Sequence[KeyedView]) -> Maintained:
    """Append views of rows by their keys, evaluate and write."""
    return Maintainer(store).maintain(rules, [Change(key, cell.time, cell) for key, cell in views])
