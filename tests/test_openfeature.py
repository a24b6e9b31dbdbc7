"""The OpenFeature provider through the real client: values, reasons, variants, errors, and events when the file changes."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import queue
import threading
from collections.abc import Iterator

import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason

from experiments.assignment import arm_of, assign
from schemas.experiments import Arm, Experiment, Experiments, Flag, Layer
from serving.experiments_file import POLL_S, ExperimentsFile
from serving.openfeature import ExperimentsProvider

ARMS = (Arm("control", 1.0, False, "combined"), Arm("treatment", 1.0, True, "combined"))
FIRST = Experiment(
    "first", 3, "featured", (0.0, 0.5), "session", "first", 1.0, ARMS, {"van": Flag(running=False), "suv": Flag(ramp=0.0)}
)
SECOND = FIRST._replace(name="second", salt="second", slice=(0.5, 1.0), ramp=0.0)
PEOPLE = FIRST._replace(name="people", salt="people", layer="ranking", slice=(0.0, 1.0), unit="user")
FILE = Experiments(7, (Layer("featured", "featured"), Layer("ranking", "ranking")), (FIRST, SECOND, PEOPLE))
SESSIONS = [f"s{number}" for number in range(400)]
DETAILS = {"layer": "featured", "version": 3, "file_version": 7}


class Source:
    """Experiments that a test can change."""

    def __init__(self) -> None:
        self.file = FILE
        self.provider = ExperimentsProvider(lambda: self.file, now=lambda: 1_000)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def client(source: Source) -> Iterator[OpenFeatureClient]:
    api.set_provider_and_wait(source.provider, "tests")
    yield api.get_client("tests")
    api.shutdown()
    api.clear_providers()


def at(unit: str | None, **attributes: str | int) -> EvaluationContext:
    return EvaluationContext(targeting_key=unit, attributes=attributes)


def where(session: str, layer: str = "featured") -> str:
    """What the assignment itself says: an arm, or the experiment the session is in without an arm."""
    found = assign(FILE, layer, session=session, user=session, now=1_000)
    return found.arm or str(found.experiment)


def one_in(place: str) -> str:
    return next(session for session in SESSIONS if where(session) == place)


def test_a_flag_says_for_every_unit_what_the_assignment_says(client: OpenFeatureClient) -> None:
    seen = set()
    for session in SESSIONS:
        expected = where(session)
        seen.add(expected)
        assert client.get_boolean_value("first", True, at(session)) == (expected == "treatment")
        assert client.get_string_value("first", "none", at(session)) == (expected if expected != "second" else "none")
    assert seen == {"control", "treatment", "second"}


@pytest.mark.parametrize("arm", ["control", "treatment"])
def test_who_is_assigned_got_there_by_a_split(client: OpenFeatureClient, arm: str) -> None:
    found = client.get_boolean_details("first", False, at(one_in(arm)))
    assert (found.value, found.variant, found.reason, found.error_code) == (arm == "treatment", arm, Reason.SPLIT, None)
    assert found.flag_metadata == {**DETAILS, "reason": "assigned"}


def test_an_object_says_all_there_is_but_the_unit(client: OpenFeatureClient) -> None:
    session = one_in("treatment")
    found = client.get_object_details("first", {}, at(session))
    expected = {"experiment": "first", "version": 3, "arm": "treatment", "shows": True, "policy": "combined", "reason": "assigned"}
    assert (found.value, found.variant, found.reason) == (expected, "treatment", Reason.SPLIT)
    assert session not in str(found)


@pytest.mark.parametrize(("flag", "reason"), [("first", "not_in_layer"), ("second", "not_in_ramp")])
def test_who_is_outside_gets_false_whatever_the_default(client: OpenFeatureClient, flag: str, reason: str) -> None:
    session = one_in("second")
    found = client.get_boolean_details(flag, True, at(session))
    assert (found.value, found.variant, found.reason, found.flag_metadata["reason"]) == (False, None, Reason.SPLIT, reason)
    assert client.get_string_value(flag, "fallback", at(session)) == "fallback"


def test_what_is_killed_or_stopped_is_disabled(client: OpenFeatureClient, source: Source) -> None:
    session = one_in("treatment")
    for file, reason in (
        (FILE._replace(kill=True), "killed"),
        (FILE._replace(experiments=(FIRST._replace(running=False),)), "not_running"),
        (FILE._replace(experiments=(FIRST._replace(starts=1_001),)), "not_running"),
    ):
        source.file = file
        found = client.get_boolean_details("first", True, at(session))
        assert (found.value, found.reason, found.flag_metadata["reason"]) == (False, Reason.DISABLED, reason)


def test_a_segment_in_the_context_counts(client: OpenFeatureClient) -> None:
    session = one_in("treatment")
    found = client.get_boolean_details("first", True, at(session, segment="van"))
    assert (found.value, found.reason, found.flag_metadata["reason"]) == (False, Reason.TARGETING_MATCH, "segment_off")
    found = client.get_boolean_details("first", True, at(session, segment="suv"))
    assert (found.value, found.reason, found.flag_metadata["reason"]) == (False, Reason.SPLIT, "segment_not_in_ramp")
    assert client.get_boolean_value("first", False, at(session, segment="electric"))


def test_the_unit_is_the_attribute_of_its_kind_before_the_targeting_key(client: OpenFeatureClient) -> None:
    in_treatment, in_control = one_in("treatment"), one_in("control")
    assert client.get_string_value("first", "", at(in_control, session=in_treatment)) == "treatment"
    assert client.get_string_value("first", "", at(in_control, user=in_treatment)) == "control"
    for session in SESSIONS[:20]:
        arm = arm_of(PEOPLE, session).name
        assert client.get_string_value("people", "", at("another", user=session, session="yet another")) == arm


def test_faults_are_told_and_the_default_is_given(client: OpenFeatureClient) -> None:
    for details, code in (
        (client.get_boolean_details("third", True, at("s1")), ErrorCode.FLAG_NOT_FOUND),
        (client.get_boolean_details("first", True), ErrorCode.TARGETING_KEY_MISSING),
        (client.get_boolean_details("first", True, at(None, user="u1")), ErrorCode.TARGETING_KEY_MISSING),
        (client.get_boolean_details("first", True, at("s1", session=5)), ErrorCode.INVALID_CONTEXT),
        (client.get_boolean_details("first", True, at("s1", segment=5)), ErrorCode.INVALID_CONTEXT),
    ):
        assert (details.value, details.reason, details.error_code) == (True, Reason.ERROR, code)
        assert "s1" not in str(details.error_message)
    for number in (client.get_integer_details("first", 9, at("s1")), client.get_float_details("first", 9.0, at("s1"))):
        assert (number.value, number.reason, number.error_code) == (9, Reason.ERROR, ErrorCode.TYPE_MISMATCH)
    assert client.get_integer_details("third", 9, at("s1")).error_code == ErrorCode.FLAG_NOT_FOUND


def test_an_event_loop_can_ask_too(client: OpenFeatureClient) -> None:
    assert asyncio.run(client.get_string_value_async("first", "", at(one_in("treatment")))) == "treatment"


@pytest.mark.parametrize(
    ("after", "flags"),
    [
        (FILE._replace(experiments=(FIRST._replace(ramp=0.5), SECOND, PEOPLE)), ["first"]),
        (FILE._replace(experiments=(FIRST, PEOPLE, FIRST._replace(name="new"))), ["new", "second"]),
        (FILE._replace(kill=True), ["first", "people", "second"]),
        (FILE._replace(layers=()), ["first", "people", "second"]),
    ],
)
def test_clients_hear_which_flags_have_changed(
    client: OpenFeatureClient, source: Source, after: Experiments, flags: list[str]
) -> None:
    heard: list[list[str] | None] = []
    told = threading.Event()

    def hear(details: EventDetails) -> None:
        heard.append(details.flags_changed)
        told.set()

    client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, hear)
    source.provider.changed(FILE, after)
    assert told.wait(5)
    assert heard == [flags]


def test_the_provider_has_a_name(source: Source) -> None:
    assert source.provider.get_metadata().name == "forecourt"


FILE_TEXT = """
version: 1
kill: false
layers: [{name: featured}]
experiments:
  - name: first
    version: 1
    layer: featured
    unit: session
    ramp: 1
    arms: [{name: control, weight: 0.001, shows: false}, {name: treatment, weight: 1000, shows: true}]
"""


def test_a_provider_that_looks_follows_its_file_and_tells_clients_until_it_is_shut_down(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "experiments.yaml"
    path.write_text(FILE_TEXT)
    file = ExperimentsFile(str(path), itertools.count(0, POLL_S).__next__)
    provider = ExperimentsProvider(file.current, look=file.look, look_s=0.01)
    heard: queue.Queue[list[str] | None] = queue.Queue()
    api.set_provider_and_wait(provider, "file")
    client = api.get_client("file")
    client.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, lambda details: heard.put(details.flags_changed))
    assert client.get_boolean_value("first", False, at("s1"))
    path.write_text(FILE_TEXT.replace("kill: false", "kill: true"))
    assert heard.get(timeout=5) == ["first"]
    assert client.get_boolean_details("first", True, at("s1")).reason == Reason.DISABLED
    path.write_text("version: [")  # refused, and the last good one stays
    path.write_text(FILE_TEXT)
    assert heard.get(timeout=5) == ["first"]
    assert client.get_boolean_value("first", False, at("s1"))
    api.shutdown()
    api.clear_providers()
    for thread in threading.enumerate():
        if thread.name == "experiments":
            thread.join(5)
            assert not thread.is_alive()


def test_a_look_that_fails_is_told_and_the_next_one_counts(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    looks = itertools.count()
    done = threading.Event()

    def look() -> None:
        if next(looks) == 0:
            msg = "no disk"
            raise OSError(msg)
        done.set()

    provider = ExperimentsProvider(lambda: source.file, look=look, look_s=0.01)
    provider.initialize(EvaluationContext())
    assert done.wait(5)
    provider.shutdown()
    assert caplog.messages == ["experiments could not be looked at: OSError: no disk"]
