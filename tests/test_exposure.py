"""Exposures: what the analysis needs is in the event, comes back from the archive as it was, fits, and names nobody."""

from __future__ import annotations

import json
import pathlib
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.assignment import Assignment, assign
from experiments.exposure import (
    MAX_CONFLICTS,
    MAX_FILTERS,
    MAX_OFFERS,
    bounded,
    click_event,
    encode_event,
    exposure_to,
    impression_event,
    in_conflict_sample,
)
from pipelines.archive import run as archive
from schemas.decoding import Attributes, decode_event
from schemas.errors import ConfigError
from schemas.event import MAX_EXPERIMENT_BYTES, json_schema
from schemas.experiments import Arm, Experiment, Experiments, Layer
from schemas.exposure import Clash, Click, Exposure, Offer, click_in, exposure_in
from schemas.instants import parse_instant
from schemas.pseudonym import PseudonymKey, Pseudonyms, pseudonym_of, pseudonymise, ring_of
from serving.ingest import taken
from serving.keys import KEY_VARIABLE
from tests.exposures import click_of, exposure_of
from tests.strategies import CATALOGUE, ROOT
from transforms.archive_files import read_archive

NOW = parse_instant("2026-05-01T12:00:00Z")
RAW = "raw-user-4711"
USER = pseudonym_of(PseudonymKey(b"k" * 16), RAW)
ARMS = (Arm("control", 1.0, False, "combined"), Arm("treatment", 1.0, True, "combined"))
SEEN: dict[str, Any] = {
    "impression_id": "i-1",
    "differs": True,
    "position": 1,
    "k": 1,
    "rung": "single_segment",
    "segment": "suv",
    "probability": 0.375,
    "sponsored": False,
    "rule_version": 7,
    "reader_source": "cache",
    "reader_reason": None,
    "file_version": 12,
    "filters": ("body_type", "price"),
    "conflicts": (Clash("electric", ("fuel_type",)),),
    "conflict_sample": 0.1,
}
SEGMENTS = [("suv", 0.8125), ("electric", 2 / 3)]


def assignment(arm: str = "treatment", kind: Any = "session", unit: str = "s1") -> Assignment:
    return Assignment("first", 3, arm, unit, arm != "control", "combined", "assigned", kind)


def exposure(found: Assignment | None = None, **more: Any) -> Exposure:
    return exposure_to(found or assignment(), more.pop("segments", SEGMENTS), user=USER, session="s1", **{**SEEN, **more})


def event(found: Exposure, **more: Any) -> dict[str, Any]:
    return impression_event(found, **{"user": USER, "listing": "l1", "now": NOW, **more})


def decoded(body: dict[str, Any]) -> Any:
    return decode_event(encode_event(body), Attributes(CATALOGUE), NOW)


# --- what is in it -------------------------------------------------------------------------------------------------------


def test_an_impression_says_all_that_the_analysis_needs() -> None:
    assert json.loads(encode_event(event(exposure()))) == {
        "event_id": "i-1",
        "event_type": "featured_impression",
        "event_time": "2026-05-01T12:00:00.000Z",
        "user_id": USER,
        "session_id": "s1",
        "listing_id": "l1",
        "pseudonymised": True,
        "experiment": {
            "impression_id": "i-1",
            "experiment": "first",
            "version": 3,
            "arm": "treatment",
            "reason": "assigned",
            "unit": "s1",
            "unit_kind": "session",
            "session": "s1",
            "policy": "combined",
            "shown": True,
            "triggered": True,
            "differs": True,
            "position": 1,
            "k": 1,
            "rung": "single_segment",
            "segment": "suv",
            "probability": 0.375,
            "sponsored": False,
            "segments": [{"name": "suv", "score": 0.8125}, {"name": "electric", "score": 2 / 3}],
            "segments_dropped": 0,
            "rule_version": 7,
            "reader_source": "cache",
            "reader_reason": None,
            "file_version": 12,
            "filters": ["body_type", "price"],
            "filters_dropped": 0,
            "conflicts": [{"segment": "electric", "attributes": ["fuel_type"]}],
            "conflicts_dropped": 0,
            "conflict_sample": 0.1,
            "arm_probability": None,
            "holdout": None,
            "segments_unknown": 0,
        },
    }


@pytest.mark.parametrize("arm", ["control", "treatment"])
def test_both_arms_tell_the_same_but_for_the_arm_and_whether_it_was_shown(arm: str) -> None:
    found = exposure(assignment(arm))
    assert (found.arm, found.shown) == (arm, arm == "treatment")
    assert msgspec.structs.replace(found, arm="treatment", shown=True) == exposure()


@pytest.mark.parametrize("arm", ["control", "treatment"])
def test_with_a_bandit_the_arms_probability_is_told(arm: str) -> None:
    found = exposure(assignment(arm)._replace(probability=0.9, holdout=False))
    assert (found.arm_probability, found.holdout) == (0.9, False)
    assert exposure_of(json.loads(encode_event(event(found)))["experiment"]) == found


def test_exposures_from_before_there_were_bandits_or_unknown_segments_are_read() -> None:
    body = event(exposure())["experiment"]
    del body["arm_probability"], body["holdout"], body["segments_unknown"]
    assert exposure_of(body) == exposure()


@pytest.mark.parametrize("arm", ["control", "treatment"])
def test_a_visitor_without_segments_is_untriggered_in_both_arms(arm: str) -> None:
    assert exposure(assignment(arm)).triggered
    assert not exposure(assignment(arm), segments=[], segment=None).triggered


def test_who_is_in_no_experiment_is_exposed_without_an_arm() -> None:
    found = exposure(Assignment(None, None, None, None, False, None, "killed"))
    assert (found.experiment, found.version, found.arm, found.unit, found.unit_kind) == (None,) * 5
    assert (found.shown, found.reason) == (False, "killed")
    assert decoded(event(found)).event.experiment["reason"] == "killed"


def test_a_click_says_which_impression_it_was_on() -> None:
    click = Click(impression_id="i-1", experiment="first", version=3, arm="treatment", position=2)
    body = click_event(click, user=USER, session="s1", listing="l1", now=NOW)
    found = decoded(body).event
    assert (found.event_type, found.listing_id, found.session_id, found.user_id) == ("featured_click", "l1", "s1", USER)
    assert found.experiment == {"impression_id": "i-1", "experiment": "first", "version": 3, "arm": "treatment", "position": 2}
    assert click_of(found.experiment) == click


@pytest.mark.parametrize(
    ("experiment", "session", "reason", "told"),
    [
        (None, "s1", "missing", "experiment: Expected `object`, got `null`, must be an object with the impression_id"),
        ({"position": 1}, "s1", "wrong_type", "experiment: Object missing required field `impression_id`, must be"),
        ({"impression_id": "i-1", "arm": 2}, "s1", "wrong_type", "must be an object with the impression_id that came"),
        ({"impression_id": "i-1"}, None, "missing", "session_id is missing, must be the session of the impression"),
    ],
)
def test_a_click_that_could_never_be_counted_is_refused(experiment: Any, session: str | None, reason: str, told: str) -> None:
    click = {"event_type": "featured_click", "user_id": "ann", "session_id": session, "experiment": experiment}
    body = json.dumps({name: value for name, value in click.items() if value is not None}).encode()
    pseudonyms = Pseudonyms(ring_of("k" * 16, "tests"))
    found = taken(body, Attributes(CATALOGUE), pseudonyms, lambda messages: not messages, NOW)
    assert (found.accepted, found.refused[0].reason) == (0, reason)
    assert told in found.refused[0].message


def test_the_impressions_id_is_enough_of_a_click() -> None:
    body = b'{"event_type": "featured_click", "user_id": "ann", "session_id": "s1", "experiment": {"impression_id": "i-1"}}'
    sent: list[bytes] = []
    pseudonyms = Pseudonyms(ring_of("k" * 16, "tests"))

    def put(messages: Sequence[bytes]) -> bool:
        sent.extend(messages)
        return True

    assert taken(body, Attributes(CATALOGUE), pseudonyms, put, NOW).accepted == 1
    text = json.dumps(json.loads(sent[0])["experiment"])
    assert click_in(text) == Click(impression_id="i-1")
    assert msgspec.json.encode(click_in(text)) == b'{"impression_id":"i-1"}'


def test_clicks_on_one_impression_are_copies_of_one_event_and_no_copies_of_the_impression() -> None:
    click = Click(impression_id="i-1", experiment=None, version=None, arm=None, position=1)
    ids = {click_event(click, user=USER, session="s1", listing="l1", now=NOW + later)["event_id"] for later in (0, 9)}
    assert len(ids) == 1
    assert event(exposure())["event_id"] not in ids


def test_every_field_is_told_of_in_the_documents() -> None:
    text = (ROOT / "docs/experiments.md").read_text()
    table = text.partition("| field of `experiment` | |\n")[2].partition("\n\n")[0]
    told = [name for line in table.splitlines()[1:] for name in re.findall(r"`(\w+)`", line.split(" | ")[0])]
    assert sorted(told) == sorted(Exposure.__struct_fields__)


# --- nobody is named -----------------------------------------------------------------------------------------------------


def test_a_user_is_assigned_by_the_raw_id_and_written_as_the_pseudonym() -> None:
    whole = Experiment("first", 3, "featured", (0.0, 1.0), "user", "first", 1.0, ARMS, {})
    file = Experiments(1, (Layer("featured", "featured"),), (whole,))
    found = assign(file, "featured", session="s1", user=RAW, now=NOW)
    text = encode_event(event(exposure(found))).decode()
    assert found.unit == RAW
    assert RAW not in text
    assert exposure_of(json.loads(text)["experiment"]).unit == USER


@pytest.mark.parametrize("ids", [{"user": RAW}, {"user": None, "anonymous": RAW}, {"user": USER, "anonymous": RAW}])
def test_a_raw_id_is_refused_and_not_shown(ids: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="must be a pseudonym") as refused:
        event(exposure(), **ids)
    assert RAW not in str(refused.value)
    click = Click(impression_id="i", experiment=None, version=None, arm=None, position=1)
    with pytest.raises(ConfigError, match="must be a pseudonym"):
        click_event(click, session="s1", listing="l", now=NOW, **ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", [RAW, None, "s1", pseudonym_of(PseudonymKey(b"k" * 16), "somebody else")])
def test_a_user_unit_that_is_not_the_events_user_is_refused(unit: str | None) -> None:
    found = msgspec.structs.replace(exposure(assignment(kind="user", unit=RAW)), unit=unit)
    with pytest.raises(ConfigError, match="unit of an exposure, must be the pseudonym of the event's user") as refused:
        event(found)
    assert RAW not in str(refused.value)


def test_who_could_not_be_assigned_for_want_of_a_user_has_no_unit() -> None:
    found = exposure(Assignment(None, None, None, None, False, None, "no_unit", "user"))
    assert (found.unit, found.unit_kind, found.reason) == (None, "user", "no_unit")
    assert exposure_of(event(found)["experiment"]) == found


def test_an_event_without_any_id_is_refused() -> None:
    with pytest.raises(ConfigError, match="both absent, must give at least one"):
        event(exposure(), user=None)


def test_an_anonymous_visitors_event_has_the_anonymous_pseudonym() -> None:
    found = decoded(event(exposure(assignment(kind="user", unit=RAW)), user=None, anonymous=USER)).event
    assert (found.user_id, found.anonymous_id, found.profile_id) == (None, USER, USER)


# --- it fits -------------------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True)
LONG = st.just("n" * 63) | NAMES
IDS = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=80).filter(lambda text: len(text.encode()) <= 256)
OPTIONAL = st.none() | NAMES
CLASHES = st.lists(st.builds(Clash, LONG, st.lists(LONG, max_size=64).map(tuple)), max_size=70).map(tuple)


@st.composite
def exposures(draw: st.DrawFn) -> Exposure:
    """Any exposure, of any size."""
    kind: Any = draw(st.sampled_from(["session", "user", None]))
    session = draw(IDS)
    found = Assignment(
        draw(OPTIONAL), draw(st.integers(1, 9)), draw(OPTIONAL), session, draw(st.booleans()), None, "assigned", kind
    )
    return exposure_to(
        found,
        draw(st.lists(st.tuples(LONG, st.floats(0, 1)), max_size=60)),
        user=USER,
        session=session,
        **{
            **SEEN,
            "impression_id": draw(IDS),
            "segment": draw(OPTIONAL),
            "rung": draw(NAMES),
            "probability": draw(st.none() | st.floats(0, 1)),
            "filters": tuple(draw(st.lists(LONG, max_size=64))),
            "conflicts": draw(st.none() | CLASHES),
        },
    )


@given(exposures())
def test_any_exposure_fits_into_an_event_and_comes_back(found: Exposure) -> None:
    body = event(found)
    assert len(json.dumps(body["experiment"])) <= MAX_EXPERIMENT_BYTES
    assert exposure_of(decoded(body).event.experiment) == bounded(found)


@given(exposures())
def test_what_is_left_out_is_counted_and_is_the_least(found: Exposure) -> None:
    kept = bounded(found)
    assert len(kept.segments) + kept.segments_dropped == len(found.segments)
    assert len(kept.filters) + kept.filters_dropped == len(found.filters)
    assert len(kept.conflicts or ()) + kept.conflicts_dropped == len(found.conflicts or ())
    assert (kept.conflicts is None) == (found.conflicts is None)
    lowest = min((offer.score for offer in kept.segments), default=0)
    out = list((Counter(found.segments) - Counter(kept.segments)).elements())
    assert all(offer.score <= lowest for offer in out) or not kept.segments
    assert bounded(kept) == kept


def test_what_fits_is_left_alone_and_in_order_of_score() -> None:
    offers = [(f"s{number:02}", number / 20) for number in range(MAX_OFFERS)]
    found = exposure(segments=offers, filters=tuple("abcdefghijklmnopqrst"[:MAX_FILTERS]))
    kept = bounded(found)
    assert kept.segments == tuple(Offer(*offer) for offer in reversed(offers))
    assert msgspec.structs.replace(kept, segments=found.segments) == found


def test_what_is_beyond_the_bounds_is_counted_out() -> None:
    offers = [(f"s{number:02}", number / 50) for number in range(MAX_OFFERS + 5)]
    clashes = tuple(Clash(f"s{number:02}", ("price",)) for number in range(MAX_CONFLICTS + 7))
    kept = bounded(exposure(segments=offers, filters=tuple(f"f{number}" for number in range(MAX_FILTERS + 3)), conflicts=clashes))
    assert (kept.segments_dropped, kept.conflicts_dropped, kept.filters_dropped) == (5, 7, 3)
    assert kept.segments == tuple(Offer(*offer) for offer in reversed(offers[5:]))
    assert kept.conflicts == clashes[:MAX_CONFLICTS]


def test_conflicts_go_first_and_no_more_of_them_than_must() -> None:
    clashes = tuple(Clash(f"{number:063}", ("a" * 63,) * 5) for number in range(MAX_CONFLICTS))
    kept = bounded(exposure(conflicts=clashes))
    assert 0 < kept.conflicts_dropped < MAX_CONFLICTS
    assert (kept.segments_dropped, kept.filters_dropped) == (0, 0)
    one_more = msgspec.structs.replace(kept, conflicts=clashes[: MAX_CONFLICTS - kept.conflicts_dropped + 1])
    assert len(json.dumps(msgspec.to_builtins(kept))) <= MAX_EXPERIMENT_BYTES < len(json.dumps(msgspec.to_builtins(one_more)))


def test_ids_that_could_never_fit_are_told() -> None:
    with pytest.raises(ConfigError, match="must have ids of at most 256 bytes"):
        bounded(exposure(impression_id="x" * 9_000))


def test_an_event_is_what_the_published_schema_says() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(encode_event(event(exposure()))), json_schema())


# --- through the archive -------------------------------------------------------------------------------------------------


def test_exposures_come_back_equal_from_the_archive(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "another key than the gateway's, long enough")
    shown = [exposure(assignment(arm), impression_id=f"i-{arm}") for arm in ("control", "treatment")]
    other = exposure(assignment(kind="user", unit=RAW), impression_id="i-user", segments=[], conflicts=None)
    click = Click(impression_id="i-treatment", experiment="first", version=3, arm="treatment", position=1)
    bodies = [event(each) for each in (*shown, other)]
    bodies += [click_event(click, user=USER, session="s1", listing="l1", now=NOW + 5)] * 2
    (tmp_path / "events.jsonl").write_bytes(b"".join(encode_event(each) + b"\n" for each in bodies))
    assert archive(["--source", f"file:{tmp_path}/events.jsonl", "--archive", f"{tmp_path}/archive", "--json"]) == 0
    table = read_archive(f"{tmp_path}/archive", CATALOGUE)
    assert table["user"].unique().to_pylist() == [USER]  # pseudonyms are left as they are
    found = table.filter(pc.equal(table["event_type"], "featured_impression"))["experiment"].to_pylist()
    by_id = {each.impression_id: each for text in found if (each := exposure_in(text)) is not None}
    assert by_id == {each.impression_id: bounded(each) for each in (*shown, other)}
    clicks = table.filter(pc.equal(table["event_type"], "featured_click"))
    assert [click_in(text) for text in clicks["experiment"].to_pylist()] == [click]
    assert RAW not in str(table.to_pylist())


def test_the_archives_own_pseudonymisation_changes_nothing() -> None:
    found = decoded(event(exposure(assignment(kind="user", unit=RAW)))).event
    assert pseudonymise(found, Pseudonyms(ring_of("another key, which nobody asked", "tests"))) == found


def test_fields_of_a_later_version_are_ignored() -> None:
    body = {**event(exposure())["experiment"], "mood": "good"}
    assert exposure_of(body) == exposure_in(json.dumps(body)) == exposure()


@pytest.mark.parametrize("text", [None, "", "{", "7", '{"arm": "control"}'])
def test_what_is_no_exposure_and_no_click_is_none(text: str | None) -> None:
    assert exposure_in(text) is None
    assert click_in(text) is None


# --- the sample ----------------------------------------------------------------------------------------------------------


def test_a_sample_has_its_share_and_a_larger_one_holds_it() -> None:
    ids = [f"i{number}" for number in range(20_000)]
    small, large = ({each for each in ids if in_conflict_sample(each, share)} for share in (0.1, 0.3))
    assert small < large
    assert abs(len(small) - 2_000) < 5 * 43  # five standard deviations
    assert not any(in_conflict_sample(each, 0.0) for each in ids)
    assert all(in_conflict_sample(each, 1.0) for each in ids)


def test_making_an_event_takes_well_under_a_millisecond() -> None:
    times = []
    for _ in range(300):
        start = time.perf_counter()
        encode_event(event(exposure()))
        times.append(time.perf_counter() - start)
    assert sorted(times)[150] < 0.5e-3
