"""What a request comes to, apart from HTTP: flags of segments, what is exposed, and answers in spite of faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from pipelines.assign import Config, documents_of
from rules import RULES_PATH
from schemas.errors import StoreUnavailableError
from schemas.experiments import Experiments, parse_experiments
from schemas.profile_row import Membership, ProfileRow, SegmentSpans, Span
from schemas.release import Release
from schemas.settings import Settings
from serving.chosen import Chosen
from serving.inventory import Inventory, load_inventory
from serving.messages import FeaturedRequest
from serving.metrics import Metrics
from serving.reader import SegmentReader
from serving.service import Parts, Service
from serving.store.rows import Rows
from tests.exposures import exposure_of
from tests.gateways import PSEUDONYMS, listings
from tests.strategies import CATALOGUE
from transforms.rules_file import load_release

NOW = 1_800_000_000_000
RELEASE = load_release(RULES_PATH, CATALOGUE)


class Members:
    """A store whose every user is in the same segments; or one that is gone."""

    def __init__(self, *names: str, gone: bool = False) -> None:
        spans = [SegmentSpans(name, [Span(NOW - 9, NOW + 9, 0.9 - place / 10, 10, 9)]) for place, name in enumerate(names)]
        self._membership, self._gone = Membership(1, NOW - 9, spans), gone

    async def read(self, keys: Sequence[str], deadline_s: float) -> Rows:
        if self._gone:
            msg = "gone"
            raise StoreUnavailableError(msg)
        return {key: ProfileRow(key, self._membership, None) for key in keys}

    async def reconnect(self) -> None: ...

    async def close(self) -> None: ...


class Box:
    """An outbox that keeps what it is given, or breaks."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.events: list[dict[str, Any]] = []
        self._breaks = breaks

    def put(self, message: bytes) -> bool:
        if self._breaks:
            msg = "no"
            raise RuntimeError(msg)
        self.events.append(json.loads(message))
        return True


def experiments(flags: str = "{}") -> Experiments:
    text = f"""
version: 3
layers: [{{name: featured}}]
experiments:
  - name: first
    version: 1
    layer: featured
    unit: session
    ramp: 1
    segments: {flags}
    arms: [{{name: control, weight: 1, shows: false}}, {{name: treatment, weight: 1, shows: true}}]
"""
    return parse_experiments(text, "experiments.yaml")


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Inventory:
    return load_inventory(str(listings(tmp_path_factory.mktemp("listings") / "l.jsonl")), CATALOGUE)


def served(
    inventory: Inventory | None,
    rows: Members,
    running: Experiments | None = None,
    box: Box | None = None,
    release: Release = RELEASE,
    **asked: Any,
) -> tuple[Chosen, list[dict[str, Any]]]:
    """What a request of session ``s1`` comes to, and the impressions of it."""
    box = box or Box()

    async def run() -> Chosen:
        reader = SegmentReader(rows, PSEUDONYMS)
        parts = Parts(
            reader,
            PSEUDONYMS,
            CATALOGUE,
            Settings(conflict_sample=1.0),
            Metrics(),
            rules=lambda: release,
            experiments=lambda: running,
            inventory=lambda: inventory,
            outbox=box,  # type: ignore[arg-type]
        )
        service = Service(parts)
        chosen = await service.featured(FeaturedRequest(**{"session_id": "s1", "user_id": "ann", **asked}), NOW)
        service.answer(chosen)
        service.expose(chosen)
        await reader.close()
        return chosen

    return asyncio.run(run()), box.events


def fuel(chosen: Chosen) -> list[str | None]:
    return [None if each.listing is None else each.listing["attributes"]["fuel_type"] for each in chosen.shown]


def in_arm(arm: str, inventory: Inventory) -> str:
    """A session in an arm."""
    names = (f"s{number}" for number in range(100))
    return next(
        name for name in names if served(inventory, Members("electric"), experiments(), session_id=name)[0].assignment.arm == arm
    )


def test_without_an_experiments_file_everybody_sees_the_personal_listing(inventory: Inventory) -> None:
    chosen, (event,) = served(inventory, Members("electric"))
    assert (fuel(chosen), chosen.reason) == (["electric"], None)
    assert (event["experiment"]["experiment"], event["experiment"]["shown"]) == (None, True)


@pytest.mark.parametrize(("arm", "shown"), [("treatment", "electric"), ("control", "diesel")])
def test_both_arms_choose_alike_and_only_one_shows(inventory: Inventory, arm: str, shown: str) -> None:
    chosen, (event,) = served(inventory, Members("electric"), experiments(), session_id=in_arm(arm, inventory))
    assert fuel(chosen) == [shown]
    exposure = exposure_of(event["experiment"])
    assert (exposure.segment, exposure.rung, exposure.differs, exposure.position) == ("electric", "single_segment", True, 1)


@pytest.mark.parametrize("arm", ["treatment", "control"])
def test_a_segment_switched_off_takes_the_request_out_of_either_arm_also_from_a_later_place(inventory: Inventory, arm: str) -> None:
    session = in_arm(arm, inventory)
    off = experiments("{electric: {running: false}}")
    asked: dict[str, Any] = {"session_id": session, "k": 4, "filters": {"fuel_type": ["electric", "diesel"]}}
    chosen, events = served(inventory, Members("suv", "electric"), off, None, **asked)
    assert "electric" in {place.segment for place in chosen.featured.positions}
    assert chosen.featured.positions[0].segment == "suv"
    assert (chosen.assignment.arm, chosen.assignment.reason) == (None, "segment_off")
    assert chosen.shown == chosen.featured.default
    assert {exposure_of(event["experiment"]).arm for event in events} == {None}


def test_a_segment_switched_off_does_not_come_in_by_a_lower_rung(inventory: Inventory) -> None:
    off = experiments("{electric: {running: false}}")
    seen = [f"l-{number}" for number in range(0, 40, 4)]
    chosen, _ = served(inventory, Members("electric"), off, seen=seen)
    assert chosen.featured.positions[0].rung == "sponsored"
    assert chosen.assignment.reason == "segment_off"


def test_where_no_segment_can_be_fulfilled_the_highest_counts_not_the_first_by_priority(inventory: Inventory) -> None:
    rules = [rule._replace(priority=9) if rule.name == "electric" else rule for rule in RELEASE.active.rules]
    release = RELEASE._replace(active=RELEASE.active._replace(rules=tuple(rules)))
    nothing: dict[str, Any] = {"release": release, "filters": {"fuel_type": "hydrogen"}}
    for off, reason in (("suv", "segment_off"), ("electric", "assigned")):
        running = experiments(f"{{{off}: {{running: false}}}}")
        chosen, _ = served(inventory, Members("suv", "electric"), running, **nothing)
        assert chosen.ask.wishes[0].name == "electric"
        assert chosen.featured.positions[0].segment is None
        assert chosen.assignment.reason == reason


POLICIES = """
version: 3
layers: [{name: featured}]
experiments:
  - name: policies
    version: 1
    layer: featured
    unit: session
    ramp: 1
    bandit: {floor: 0, holdout: 0.2}
    allocation:
      electric: {control: 0.02, drawn: 0.98}
      suv: {control: 0.98, drawn: 0.02}
    arms: [{name: control, weight: 1, shows: false}, {name: drawn, weight: 1, shows: true}]
"""


def test_with_a_bandit_the_visitors_first_segment_says_how_arms_are_drawn_and_the_exposure_tells(inventory: Inventory) -> None:
    running = parse_experiments(POLICIES, "experiments.yaml")
    for first, other, arm in (("electric", "suv", "drawn"), ("suv", "electric", "control")):
        told = []
        for number in range(40):
            chosen, (event,) = served(inventory, Members(first, other), running, session_id=f"s{number}")
            exposure = exposure_of(event["experiment"])
            assert (exposure.arm_probability, exposure.holdout) == (chosen.assignment.probability, chosen.assignment.holdout)
            assert exposure.segments[0].name == first  # who reads the exposures can tell by what it was drawn
            told.append((exposure.holdout, exposure.arm, exposure.arm_probability))
        assert {each for each in told if not each[0]} <= {(False, arm, 0.98), (False, {"drawn": "control"}.get(arm, "drawn"), 0.02)}
        assert sum(each == (False, arm, 0.98) for each in told) > 20
        assert {each[2] for each in told if each[0]} == {0.5}
    _, (event,) = served(inventory, Members(), running)
    assert exposure_of(event["experiment"]).arm_probability == 0.5  # no segments: by the weights


def test_a_gateway_without_listings_writes_queries_and_no_impressions() -> None:
    chosen, events = served(None, Members("electric"))
    assert (fuel(chosen), chosen.reason, events) == ([], None, [])


def test_places_that_nothing_fills_are_no_impressions_but_for_the_first(inventory: Inventory) -> None:
    chosen, events = served(inventory, Members("electric"), k=3, filters={"fuel_type": "lpg"})
    assert (fuel(chosen), len(events)) == ([None] * 3, 1)
    assert "listing_id" not in events[0]
    assert exposure_of(events[0]["experiment"]).conflicts


def test_a_store_that_is_gone_gives_the_default_with_its_reason(inventory: Inventory) -> None:
    chosen, (event,) = served(inventory, Members(gone=True))
    assert (fuel(chosen), chosen.reason) == (["diesel"], "store_down")
    assert event["experiment"]["triggered"] is False


def test_an_assignment_that_breaks_gives_the_default_and_says_fault(inventory: Inventory) -> None:
    broken = experiments()._replace(layers=())  # its salt can't be found
    chosen, (event,) = served(inventory, Members("electric"), broken)
    assert (fuel(chosen), chosen.reason, chosen.assignment.reason) == (["diesel"], "fault", "fault")
    assert event["experiment"]["shown"] is False


def test_an_outbox_that_breaks_costs_no_answer(inventory: Inventory) -> None:
    chosen, events = served(inventory, Members("electric"), box=Box(breaks=True))
    assert (fuel(chosen), events) == (["electric"], [])


@pytest.mark.parametrize("arm", ["treatment", "control"])
def test_who_has_only_segments_that_the_rules_do_not_know_is_untriggered_in_both_arms(inventory: Inventory, arm: str) -> None:
    """No arm could show them anything else; nor may such a segment draw the arm, or switch an experiment off."""
    session = in_arm(arm, inventory)
    off = experiments("{of_older_rules: {running: false}}")
    chosen, (event,) = served(inventory, Members("of_older_rules"), off, session_id=session)
    exposure = exposure_of(event["experiment"])
    assert (exposure.arm, exposure.triggered, exposure.differs) == (arm, False, False)
    assert (exposure.segments, exposure.segments_unknown, exposure.reader_reason) == ((), 1, None)
    assert (fuel(chosen), chosen.reason) == (["diesel"], "no_segments")
    chosen, (event,) = served(inventory, Members("of_older_rules", "electric"), off, session_id=session)
    exposure = exposure_of(event["experiment"])
    assert (exposure.arm, exposure.triggered, exposure.segments_unknown) == (arm, True, 1)
    assert [offer.name for offer in exposure.segments] == ["electric"]


def test_a_segment_that_the_rules_do_not_know_draws_no_arm(inventory: Inventory) -> None:
    running = parse_experiments(POLICIES, "experiments.yaml")
    for number in range(20):
        rows = [Members("electric"), Members("of_older_rules", "electric")]
        one, other = (served(inventory, each, running, session_id=f"s{number}")[0].assignment for each in rows)
        assert one == other


def test_the_command_tells_what_the_gateway_does(inventory: Inventory) -> None:
    """``forecourt experiment assign`` with the segment that was chosen."""
    text = POLICIES.replace("ramp: 1\n", "ramp: 0.8\n    segments: {electric: {ramp: 0.5}, suv: {running: false}}\n")
    running = parse_experiments(text, "experiments.yaml")
    sessions = [f"s{number}" for number in range(150)]
    reasons = set()
    for segment in ("electric", "suv", None):
        config = Config("experiments.yaml", "featured", session="-", segment=segment)
        for document in documents_of(sessions, config, running, NOW):
            rows = Members(*([segment] if segment else []))
            found = served(inventory, rows, running, session_id=document["session"])[0].assignment
            assert (document["arm"], document["reason"]) == (found.arm, found.reason)
            assert document.get("probability") == found.probability
            reasons.add(found.reason)
    assert reasons == {"assigned", "not_in_ramp", "segment_off", "segment_not_in_ramp"}
