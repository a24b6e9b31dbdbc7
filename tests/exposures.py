"""Exposures and clicks out of events, for tests: what is none fails with its reason."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.exposure import Click, Exposure


def exposure_of(experiment: Any) -> Exposure:
    """The exposure in an event's ``experiment``; ``msgspec.ValidationError`` when it is none."""
    return msgspec.convert(experiment, Exposure)


def click_of(experiment: Any) -> Click:
    """The click in an event's ``experiment``; ``msgspec.ValidationError`` when it is none."""
    return msgspec.convert(experiment, Click)
