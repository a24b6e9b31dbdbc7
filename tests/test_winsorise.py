"""Winsorising against its definition, and that both arms have one bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats.mstats import winsorize

from experiments.winsorise import winsorised
from schemas.errors import ConfigError

amounts = st.lists(st.floats(0, 1e9), min_size=1, max_size=50)


@given(amounts, st.integers(1, 100))
def test_the_bound_is_the_least_value_that_the_quantile_of_all_are_at_or_below(values: list[float], percent: int) -> None:
    bound = min(value for value in values if 100 * sum(other <= value for other in values) >= percent * len(values))
    assert winsorised(np.array(values), percent / 100).tolist() == [min(value, bound) for value in values]


def test_it_equals_scipys() -> None:
    values = np.random.default_rng(0).gamma(1, 5, 1_000)
    assert winsorised(values, 0.95).tolist() == pytest.approx(winsorize(values, (0, 0.05)).data.tolist())


def test_without_a_quantile_values_stay_as_they_are() -> None:
    values = np.array([1.0, 900.0])
    assert winsorised(values, None) is values
    assert winsorised(values, 1).tolist() == [1, 900]
    assert winsorised(np.zeros(0), 0.5).tolist() == []


@given(amounts)
def test_a_second_time_changes_nothing(values: list[float]) -> None:
    once = winsorised(np.array(values), 0.9)
    assert winsorised(once, 0.9).tolist() == once.tolist()


@pytest.mark.parametrize("quantile", [0, -0.1, 1.5, 99])
def test_a_quantile_that_is_none_is_told(quantile: float) -> None:
    with pytest.raises(ConfigError, match="quantile == .*, must be above 0 and at most 1"):
        winsorised(np.array([1.0]), quantile)
