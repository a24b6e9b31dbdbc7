"""The whole loop: simulated sessions with planted effects, archive, analysis, controller, and a gateway that follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import forecourt
from schemas.instants import clock_ms
from serving.experiments_file import load_experiments
from serving.keys import KEY_VARIABLE
from serving.store import open_store
from tests.gateways import KEY, Gateway, gateway_in, listings, members, reasons, visits_during
from tests.live import wait_until

pytestmark = pytest.mark.alone

FOLLOWS_S = 15.0
VISITS = 60
OTHERS = ("convertible", "coupe", "diesel", "hatchback", "hybrid", "lpg", "petrol", "sedan", "ute_tray", "wagon")
EXPERIMENTS = f"""
version: 1
layers: [{{name: featured}}]
experiments:
  - name: featured_first
    version: 1
    layer: featured
    unit: session
    ramp: 1
    arms: [{{name: control, weight: 1, shows: false}}, {{name: treatment, weight: 1, shows: true}}]
    segments: {{electric: {{ramp: 0.5}}, suv: {{ramp: 0.5}}, {", ".join(f"{name}: {{running: false}}" for name in OTHERS)}}}
    controller: {{mode: act, min_sessions: 200, planned_sessions: 2000}}
"""


def command(line: str, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The document that a command prints with ``--json``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["forecourt", *line.split(), "--json"])
        patch.setenv(KEY_VARIABLE, KEY)
        with pytest.raises(SystemExit) as stop:
            forecourt.main()
    out, err = capfd.readouterr()
    assert not stop.value.code, err
    document: dict[str, Any] = json.loads(out)
    return document


def visitors(segment: str) -> list[str]:
    return [f"{segment}-{number}" for number in range(VISITS)]


def personalised(gateway: Gateway, segment: str) -> int:
    """How many of a segment's visitors are shown what their segment chose."""
    return reasons(visits_during(gateway.port, visitors(segment), rate=300))[None]


def test_what_helps_is_ramped_up_what_harms_is_rolled_back_and_serving_follows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("experiments.yaml").write_text(EXPERIMENTS)
    experiment = "--experiments experiments.yaml --experiment featured_first"
    planted = "--effect electric=0.6 --effect suv=-0.5"
    command(f"simulate --events 90000 --users 4000 --days 14 --seed 5 --to file:events.jsonl {experiment} {planted}", capfd)
    command("archive --source file:events.jsonl --archive archive", capfd)
    command("experiment sessions --archive archive --experiment featured_first --sessions sessions.parquet", capfd)

    found = command("experiment analyse --sessions sessions.parquet --unit session", capfd)
    assert found["readable"], found["reasons"]
    assert found["interaction"]["p"] < 0.001
    for segment, effect, action in (("electric", 0.6, "ramp_up"), ("suv", -0.5, "roll_back")):
        part = found["segments"][segment]
        assert part["action"] == action
        assert part["rel_ci"][0] < effect < part["rel_ci"][1]

    listings(tmp_path / "listings.jsonl")
    store = open_store(f"sqlite:///{tmp_path}/profiles.db")
    store.init()
    for segment in ("electric", "suv"):
        members(store, visitors(segment), clock_ms() - 1_000, segment)
    options = ["--store", f"sqlite:///{tmp_path}/profiles.db", "--inventory", "listings.jsonl", "--experiments", "experiments.yaml"]
    with gateway_in(tmp_path, *options) as gateway:
        before = {segment: personalised(gateway, segment) for segment in ("electric", "suv")}
        assert min(before.values()) > 0
        decided = command(f"experiment controller {experiment} --sessions sessions.parquet --log decisions.jsonl", capfd)
        actions = {each["segment"]: each["action"] for each in decided["decisions"]}
        assert (actions["electric"], actions["suv"]) == ("ramp_up", "roll_back")
        wait_until(lambda: personalised(gateway, "suv") == 0, FOLLOWS_S, "what harms is still shown")
        assert personalised(gateway, "electric") > before["electric"]
    flags = load_experiments("experiments.yaml").experiments[0].segments
    assert (flags["electric"].ramp, flags["suv"].running) == (1.0, False)
    logged = [json.loads(line) for line in Path("decisions.jsonl").read_text().splitlines()]
    assert {each["segment"] for each in logged} >= {"electric", "suv"}
