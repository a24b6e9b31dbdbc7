"""The membership kernel: µs a user for full spans, at 10, 100 and 1,000 views and 10 and 100 rules."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from rules import CATALOGUE_PATH
from schemas.instants import DAY_MS
from schemas.rules import RuleSet, parse_rules
from schemas.view import pack_attributes
from transforms.kernel import spans_of
from transforms.membership import Rules, Views, evaluate
from transforms.rules_file import load_catalogue

ROUNDS: Final = 7
_FUELS: Final = ("petrol", "diesel", "hybrid", "electric")
_BODIES: Final = ("suv", "hatchback", "sedan", "wagon")


class KernelTime(NamedTuple):
    """Median µs of one call: ``evaluate_us`` from packed views to spans, ``kernel_us`` the compiled part of it alone."""

    views: int
    rules: int
    evaluate_us: float
    kernel_us: float
    spans: int


def rule_set(count: int) -> RuleSet:
    """The rules of ``rules_text``."""
    return parse_rules(rules_text(count), load_catalogue(CATALOGUE_PATH), "benchmark")


def rules_text(count: int) -> str:
    """``count`` rules that use every feature: bands, lists, all/any/not, windows, half lives, days, priors, hysteresis."""
    kinds: list[dict[str, Any]] = [
        {"when": {"fuel_type": "electric"}},
        {"when": {"fuel_type": ["petrol", "hybrid"]}, "enter": 0.6, "exit": 0.5, "min_days": 2},
        {"when": {"body_type": "suv"}, "enter": 0.3, "exit": 0.2},
        {"when": {"body_type": "hatchback"}, "half_life": "2d", "enter": 0.3, "exit": 0.2},
        {"when": {"price": {"gte": 40000}}, "prior_views": 4, "prior_share": 0.1},
        {"when": {"price": {"lt": 12000}}, "window": "3d"},
        {"when": {"mileage": {"lte": 30000}}, "enter": 0.35, "exit": 0.25},
        {
            "when": {"all": [{"body_type": "suv"}, {"any": [{"fuel_type": "petrol"}, {"fuel_type": "hybrid"}]}]},
            "enter": 0.2,
            "exit": 0.1,
        },
        {"when": {"not": {"fuel_type": "diesel"}}, "enter": 0.8, "exit": 0.7, "min_views": 10},
        {"when": {"year": {"gte": 2018}}},
    ]
    segments = [{"name": f"s{index}", **kinds[index % len(kinds)]} for index in range(count)]
    return str({"version": 1, "segments": segments}).replace("None", "null")


def views_of(count: int, seed: int = 1) -> Views:
    """``count`` views over ten days, every one of a listing of its own."""
    rng = random.Random(seed)
    times = np.sort(np.array([1_700_000_000_000 + rng.randrange(10 * DAY_MS) for _ in range(count)], np.int64))
    packed = [
        pack_attributes(
            {
                "fuel_type": rng.choice(_FUELS),
                "body_type": rng.choice(_BODIES),
                "price": float(rng.randrange(2_000, 90_000)),
                "mileage": float(rng.randrange(100_000)),
                "year": float(rng.randrange(2005, 2026)),
            }
        )
        for _ in range(count)
    ]
    return Views(times, packed)


def kernel_times() -> list[KernelTime]:
    """Every combination, each the median of seven rounds."""
    results = []
    for views in (10, 100, 1_000):
        for rules in (10, 100):
            user, prepared = views_of(views), Rules(rule_set(rules))
            spans = sum(len(segment.spans) for segment in evaluate(user, prepared).segments)
            arguments = (user.times, prepared.matches.bits_of(user.packed), *prepared.arrays)
            calls = max(20, 200_000 // (views * rules))
            results.append(
                KernelTime(
                    views,
                    rules,
                    _median_us(lambda user=user, prepared=prepared: evaluate(user, prepared), calls),  # type: ignore[misc]
                    _median_us(lambda arguments=arguments: spans_of(*arguments), calls),  # type: ignore[misc]
                    spans,
                )
            )
    return results


def _median_us(call: Callable[[], object], calls: int) -> float:
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        rounds.append((time.perf_counter() - start) / calls * 1e6)
    return round(statistics.median(rounds), 2)
