"""The plain way to read an experiment: pandas for the table, statsmodels for clustered errors; prints effects as JSON.

python -m benchmarks.analysis_peer FILE.parquet
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

import numpy as np
import pandas as pd
import statsmodels.api as sm

_COLUMNS: Final = ["user_id", "arm", "segment_count", "primary_segment", "vehicles_viewed", "impressions", "clicks", "lead"]


def effects_in(path: str) -> dict[str, Any]:
    """Effect and standard error by metric, and of the primary metric by segment."""
    frame = pd.read_parquet(path, columns=_COLUMNS)
    frame = frame[frame["segment_count"] > 0]
    frame["user"] = frame["user_id"].factorize()[0]
    found = {
        "vehicles_viewed": effect_of(frame, frame["vehicles_viewed"]),
        "ctr": effect_of(frame, frame["clicks"], frame["impressions"]),
        "lead": effect_of(frame, frame["lead"]),
    }
    for name, part in frame.groupby("primary_segment"):
        found[str(name)] = effect_of(part, part["vehicles_viewed"])
    return found


def effect_of(frame: Any, x: Any, d: Any = None) -> dict[str, float]:
    """Least squares of ``x/d`` on the arm, weighted by ``d``, clustered by user."""
    weights = np.ones(len(frame)) if d is None else d.to_numpy()
    ratio = np.divide(x.to_numpy(), weights, out=np.zeros(len(frame)), where=weights > 0)
    arm = sm.add_constant((frame["arm"] == "treatment").to_numpy(float))
    fit = sm.WLS(ratio, arm, weights=weights).fit(cov_type="cluster", cov_kwds={"groups": frame["user"].to_numpy()}, use_t=True)
    return {"effect": float(fit.params[1]), "se": float(fit.bse[1])}


if __name__ == "__main__":
    print(json.dumps(effects_in(sys.argv[1])))
