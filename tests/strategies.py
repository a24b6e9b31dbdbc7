"""Hypothesis strategies shared by the tests: rules as an author writes them, and users' views."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from schemas.catalogue import parse_catalogue
from schemas.rules import parse_rules
from schemas.view import pack_attributes
from tests.reference import DAY_MS, SeenView
from transforms.membership import Rules, Views

ROOT: Final = pathlib.Path(__file__).parents[1]
CATALOGUE: Final = parse_catalogue((ROOT / "rules/attributes.yaml").read_bytes(), "attributes.yaml")
START: Final = 1_767_225_600_000  # 2026-01-01T00:00:00Z

FUELS: Final = ("electric", "diesel", "petrol")
PRICES: Final = (5.0, 10.0, 20.0, 30.0)

Spec = Mapping[str, Any]


def rules_of(*specs: Spec) -> Rules:
    """The rules as the kernel takes them, named r0, r1, …, from what stands in a rules file."""
    import json

    named = [{"name": f"r{index}", **spec} for index, spec in enumerate(specs)]
    return Rules(parse_rules(json.dumps({"version": 1, "segments": named}), CATALOGUE, "rules.yaml"))


def views_of_seen(seen: list[SeenView]) -> Views:
    """Distinct views in order of (time, id) as the kernel takes them."""
    return Views(np.array([view.time for view in seen], np.int64), [pack_attributes(view.attributes) for view in seen])


def conditions() -> st.SearchStrategy[Spec]:
    """What stands under ``when``."""
    bounds = st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt"]), st.sampled_from(PRICES), min_size=1, max_size=2)
    fuel = st.sampled_from(FUELS) | st.lists(st.sampled_from(FUELS), min_size=1, max_size=2)
    price = bounds | st.sampled_from(PRICES) | st.lists(st.sampled_from(PRICES), min_size=1, max_size=2)
    leaf = st.fixed_dictionaries({"fuel_type": fuel}, optional={"price": price}) | st.fixed_dictionaries({"price": price})

    def combined(inner: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
        some = st.lists(inner, min_size=1, max_size=3)
        return st.fixed_dictionaries({"not": inner}) | st.fixed_dictionaries({"any": some}) | st.fixed_dictionaries({"all": some})

    return st.recursive(leaf, combined, max_leaves=4)


@st.composite
def rule_specs(draw: st.DrawFn) -> Spec:
    """A rule without its name, with thresholds that small windows reach exactly."""
    exit_share, enter = sorted(draw(st.tuples(*[st.sampled_from([0.2, 0.25, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.75, 1.0])] * 2)))
    return {
        "when": draw(conditions()),
        "window": draw(st.sampled_from(["1s", "1h", "36h", "3d", "10d"])),
        "enter": enter,
        "exit": exit_share,
        "min_views": draw(st.integers(1, 6)),
        "min_days": draw(st.sampled_from([1, 1, 1, 2, 3])),
        "half_life": draw(st.sampled_from([None, None, "1s", "1h", "2d"])),
        "prior_views": draw(st.sampled_from([0, 0, 1, 4.5])),
        "prior_share": draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
    }


def attributes() -> st.SearchStrategy[dict[str, str | float]]:
    """Attributes of a view, each of them sometimes lacking."""
    return st.fixed_dictionaries({}, optional={"fuel_type": st.sampled_from(FUELS), "price": st.sampled_from(PRICES)})


@st.composite
def seen_views(draw: st.DrawFn, max_size: int = 12) -> list[SeenView]:
    """Views with distinct ids, out of order, within a second up to 12 days, often several at one instant."""
    step = draw(st.sampled_from([100, 60_000, 3_600_000, DAY_MS]))
    at = st.integers(0, 11).map(lambda place: START + place * step)
    rows = draw(st.lists(st.tuples(at, attributes()), min_size=1, max_size=max_size))
    return [SeenView(time, f"e{index:02}", kept) for index, (time, kept) in enumerate(rows)]
