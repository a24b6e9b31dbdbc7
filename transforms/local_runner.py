"""The local runner, named explicitly: ``FnApiRunner`` in this process, without its leak.

After each bundle Beam 2.77's ``FnApiRunner`` chains a lazy generator of metrics onto the last one, so a pipeline that
runs on keeps every bundle's metrics (about 30 KB a bundle) and overruns the stack when they are read. Here they are summed
at once; memory is then flat over 12,000 bundles.

With several workers the traceback of a fault is printed by each worker, before the runner raises it; we tell a fault in one line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from apache_beam.metrics import monitoring_infos
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, fn_runner
from apache_beam.runners.worker import sdk_worker


def local_runner() -> FnApiRunner:
    """A runner for one pipeline in this process."""
    fn_runner.consolidate_monitoring_infos = _summed_at_once
    sdk_worker.print = _say_nothing
    return FnApiRunner()


def _say_nothing(*_: Any, **__: Any) -> None:
    """Leave out what a worker prints of a fault, which is raised too."""


def _summed_at_once(infos: Iterable[Any], *arguments: Any) -> list[Any]:
    return list(monitoring_infos.consolidate(infos, *arguments))
