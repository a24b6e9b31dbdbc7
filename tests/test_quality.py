"""The bounds of the quality gate: what the operator writes, what it becomes, and what the operator is told."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rules import QUALITY_PATH
from schemas.errors import RulesError
from schemas.quality import Thresholds, parse_thresholds
from tests.strategies import ROOT


def test_the_shipped_file_gives_every_threshold_and_the_defaults() -> None:
    with open(QUALITY_PATH, encoding="utf-8") as file:
        text = file.read()
    assert parse_thresholds(text, "quality.yaml") == Thresholds()
    assert set(re.findall(r"^(\w+):", text, re.MULTILINE)) == set(Thresholds._fields)


def test_the_document_gives_every_threshold_and_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", (ROOT / "docs/quality.md").read_text(), re.MULTILINE))
    assert rows == {name: str(value) for name, value in Thresholds()._asdict().items()} | {"sparse": "none"}


def test_every_key_is_optional() -> None:
    assert parse_thresholds("{}", "q.yaml") == Thresholds()


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        *[(f"{name}: 0.25", name, 0.25) for name in Thresholds._fields if name not in {"sparse", "cell_bytes"}],
        ("cell_bytes: 2048", "cell_bytes", 2048),
        ("sparse: [seats, doors]", "sparse", frozenset({"seats", "doors"})),
        ("volume_rise: 3", "volume_rise", 3.0),
        ("misfiled_share: 1", "misfiled_share", 1.0),
    ],
)
def test_a_value_lands_in_its_field_and_nowhere_else(text: str, field: str, value: Any) -> None:
    assert parse_thresholds(text, "q.yaml") == Thresholds()._replace(**{field: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "q.yaml:1:1: thresholds == [1], must be a mapping with the keys volume_drop, "),
        ("\n volume_dorp: 0.2", "q.yaml:2:2: volume_dorp == 0.2, must be absent: the keys are volume_drop, "),
        ("volume_drop: 1", "q.yaml:1:1: volume_drop == 1, must be a number between 0.01 and 0.99"),
        ("volume_rise: 0", "q.yaml:1:1: volume_rise == 0, must be a number between 0.01 and 100"),
        ("users_drop: -0.1", "q.yaml:1:1: users_drop == -0.1, must be a number between 0.01 and 0.99"),
        ("users_rise: 1e3", "q.yaml:1:1: users_rise == 1000.0, must be a number between 0.01 and 100"),
        ("late_share: 1.01", "q.yaml:1:1: late_share == 1.01, must be a number between 0 and 1"),
        ("future_share: yes", "q.yaml:1:1: future_share == 'yes', must be a number between 0 and 1"),
        ("null_rise: true", "q.yaml:1:1: null_rise == True, must be a number between 0 and 1"),
        ("null_share:", "q.yaml:1:1: null_share == None, must be a number between 0 and 1"),
        ("mix_shift: .nan", "q.yaml:1:1: mix_shift == '.nan', must be a number between 0 and 1"),
        ("spread_free: 11", "q.yaml:1:1: spread_free == 11, must be a number between 0 and 10"),
        ("spread_factor: -1", "q.yaml:1:1: spread_factor == -1, must be a number between 0 and 100"),
        ("noise_sigmas: 99", "q.yaml:1:1: noise_sigmas == 99, must be a number between 0 and 10"),
        ("cell_bytes: 1.5", "q.yaml:1:1: cell_bytes == 1.5, must be a whole number of bytes between 1 and 104857600"),
        ("cell_bytes: 0", "q.yaml:1:1: cell_bytes == 0, must be a whole number of bytes between 1 and 104857600"),
        ("sparse: seats", "q.yaml:1:1: sparse == 'seats', must be a list of attributes"),
        ("sparse:\n  - seats\n  - 7", "q.yaml:3:5: sparse[1] == 7, must be the name of an attribute"),
        ("a: 1\na: 2", "must be unique"),
        ("", "q.yaml: empty, must hold one YAML document"),
    ],
)
def test_what_is_wrong_is_said_with_place_value_and_what_must_be(text: str, message: str) -> None:
    with pytest.raises(RulesError, match=re.escape(message)):
        parse_thresholds(text, "q.yaml")
