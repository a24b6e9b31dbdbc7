"""A real ``forecourt serve`` over SQLite: every endpoint, who is let in, what is refused, and what must never be logged."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from pipelines.archive import run as run_archive
from pipelines.serve import Config
from schemas.errors import ConfigError
from schemas.identity import Link, Linked, digest_of
from schemas.instants import clock_ms, format_instant
from schemas.profile_row import link_cell, linked_cell
from serving.access import mint
from serving.store import open_store
from tests.exposures import exposure_of
from tests.gateways import HOST, KEY, PSEUDONYMS, Gateway, gateway_in, listings, members
from tests.live import wait_until
from tests.strategies import ROOT

pytestmark = pytest.mark.alone

ROLES: Final = ("gateway", "user_control", "metrics")
EXPERIMENTS: Final = """
version: 3
layers: [{name: featured}]
experiments:
  - name: electric_first
    version: 2
    layer: featured
    unit: session
    ramp: 1
    arms: [{name: control, weight: 1, shows: false}, {name: treatment, weight: 1, shows: true}]
"""
SCHEMATHESIS: Final = Path(sys.executable).with_name("schemathesis")


def sealed(raw_id: str) -> str:
    return b64encode(PSEUDONYMS.seal(raw_id)).decode()


class Answer(NamedTuple):
    status: int
    body: Any
    headers: Any


class Place(NamedTuple):
    """A gateway with everything that it can have, and the tokens of its callers."""

    gateway: Gateway
    folder: Path
    tokens: dict[str, str]

    @property
    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def ask(self, path: str, role: str | None = "gateway", *, body: Any = None, method: str | None = None) -> Answer:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {} if role is None else {"Authorization": f"Bearer {self.tokens.get(role, role)}"}
        method = method or ("GET" if data is None else "POST")
        request = urllib.request.Request(f"http://{HOST}:{self.gateway.port}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                text = answer.read()
                return Answer(answer.status, json.loads(text) if b"{" in text[:1] else text.decode(), answer.headers)
        except urllib.error.HTTPError as error:
            return Answer(error.code, json.loads(error.read()), error.headers)

    def featured(self, **asked: Any) -> dict[str, Any]:
        answer = self.ask("/v1/featured", body={"session_id": "s1", **asked})
        assert answer.status == 200, answer.body
        return dict(answer.body)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("gateway")
    uri = f"sqlite:///{folder}/store.db"
    store = open_store(uri)
    store.init()
    now = clock_ms()
    members(store, ["ann", "bob", "cat", "dee", "eli", "ann-with-secret-id"], now)
    for user in ("dee", "eli"):
        browser = PSEUDONYMS(f"browser-of-{user}")
        link = Link(now - 1_000, "e1", PSEUDONYMS(user), "identify", PSEUDONYMS.seal(user))
        linked = linked_cell(Linked(browser, PSEUDONYMS.seal(f"browser-of-{user}")))
        store.write_identity([(browser, link_cell(link)), (PSEUDONYMS(user), linked)])
    minted = {role: mint(role, role) for role in ROLES} | {"slow": mint("slow", "gateway")}
    lines = [
        each.line.replace("}", ", rate_per_s: 1, burst: 3}" if name == "slow" else ", rate_per_s: 100000}")
        for name, each in minted.items()
    ]
    (folder / "access.yaml").write_text("keys:\n" + "\n".join(lines) + "\n")
    (folder / "experiments.yaml").write_text(EXPERIMENTS)
    (folder / "serving.yaml").write_text("cache_ttl_ms: 0\nconflict_sample: 1.0\n")
    options = {
        "store": uri,
        "inventory": listings(folder / "listings.jsonl"),
        "events": f"file:{folder}/events.jsonl",
        "access": folder / "access.yaml",
        "experiments": folder / "experiments.yaml",
        "settings": folder / "serving.yaml",
    }
    with gateway_in(folder, *[word for name, value in options.items() for word in (f"--{name}", str(value))]) as gateway:
        yield Place(gateway, folder, {name: each.token for name, each in minted.items()})


# --- what is answered ----------------------------------------------------------------------------------------------------


def test_segments_come_with_scores_version_and_age(place: Place) -> None:
    answer = place.ask("/v1/users/ann/segments").body
    assert [(each["name"], each["score"], each["matching"]) for each in answer["segments"]] == [("electric", 0.8, 16)]
    assert (answer["rule_version"], answer["source"], answer["reason"]) == (1, "store", None)
    assert answer["age_ms"] >= 0
    assert place.ask("/v1/users/nobody/segments").body["reason"] == "unknown_user"
    assert place.ask("/v1/users/nobody/segments?anonymous_id=ann").body["segments"] == answer["segments"]


def sessions(place: Place, arm: str, count: int) -> list[str]:
    """Sessions that are in an arm."""
    names = (f"x{number}" for number in range(1_000))
    found = [name for name in names if place.featured(session_id=name)["assignment"]["arm"] == arm][:count]
    assert len(found) == count
    return found


def test_the_treatment_sees_its_segment_and_the_control_the_default(place: Place) -> None:
    (treated,), (control,) = sessions(place, "treatment", 1), sessions(place, "control", 1)
    personal = place.featured(session_id=treated, user_id="ann")
    (position,) = personal["positions"]
    assert (personal["personalised"], personal["reason"]) == (True, None)
    assert position["listing"]["attributes"]["fuel_type"] == "electric"
    assert (position["rung"], position["segment"], position["probability"]) == ("single_segment", "electric", 1.0)
    default = place.featured(session_id=control, user_id="ann")
    assert (default["personalised"], default["reason"]) == (False, "control")
    assert default["positions"][0]["listing"]["listing_id"] == "l-2"
    assert place.featured(session_id=treated, user_id="ann")["positions"][0]["listing"] == position["listing"]


def test_a_filter_is_obeyed_and_a_segment_that_clashes_with_it_is_told(place: Place) -> None:
    (treated,) = sessions(place, "treatment", 1)
    answer = place.featured(session_id=treated, user_id="ann", filters={"fuel_type": "diesel"}, k=3)
    assert [each["listing"]["attributes"]["fuel_type"] for each in answer["positions"]] == ["diesel"] * 3
    assert answer["conflicts"] == [{"segment": "electric", "attributes": ["fuel_type"]}]
    assert answer["reason"] == "all_conflict"
    assert 'forecourt_conflicts_total{attribute="fuel_type",segment="electric"}' in place.ask("/metrics", "metrics").body
    assert "diesel" in json.dumps(answer["query"]["query"])


def test_an_exposure_of_either_arm_holds_what_the_analysis_needs_and_no_raw_id(place: Place) -> None:
    for arm, shown in (("treatment", True), ("control", False)):
        (session,) = sessions(place, arm, 1)
        answer = place.featured(session_id=session, user_id="ann-with-secret-id")
        impression = answer["positions"][0]["impression_id"]
        wait_until(lambda: any(event["event_id"] == impression for event in place.events), 10, "no exposure")  # noqa: B023
        (event,) = [event for event in place.events if event["event_id"] == impression]
        exposure = exposure_of(event["experiment"])
        assert (event["event_type"], event["user_id"]) == ("featured_impression", PSEUDONYMS("ann-with-secret-id"))
        assert (event["sealed_user_id"], "anonymous_id" in event) == (sealed("ann-with-secret-id"), False)
        assert event["listing_id"] == answer["positions"][0]["listing"]["listing_id"]
        assert (exposure.experiment, exposure.version, exposure.arm, exposure.shown) == ("electric_first", 2, arm, shown)
        assert (exposure.segment, exposure.rung, exposure.probability) == ("electric", "single_segment", 1.0)
        assert (exposure.triggered, exposure.differs, exposure.rule_version) == (True, True, 1)
        assert (exposure.unit, exposure.session, exposure.file_version) == (session, session, 3)
        assert (exposure.position, exposure.k) == (1, 1)
    assert b"secret" not in (place.folder / "events.jsonl").read_bytes()


def test_who_has_no_segments_is_untriggered_and_gets_the_default(place: Place) -> None:
    answer = place.featured(user_id="nobody")
    assert (answer["reason"], answer["positions"][0]["rung"]) == ("unknown_user", "default")
    impression = answer["positions"][0]["impression_id"]
    wait_until(lambda: any(event["event_id"] == impression for event in place.events), 10, "no exposure")
    (event,) = [event for event in place.events if event["event_id"] == impression]
    assert (event["experiment"]["triggered"], event["experiment"]["differs"]) == (False, False)


def test_events_are_validated_stamped_and_pseudonymised(place: Place) -> None:
    view = {"event_type": "listing_view", "user_id": "eve", "attributes": {"fuel_type": "electric", "price": 1}}
    assert place.ask("/v1/events", body=view).body == {"accepted": 1, "refused": []}
    late = view | {"event_id": "given", "event_time": format_instant(clock_ms() - 1_000)}
    some = place.ask(
        "/v1/events", body=[late, view | {"event_type": "no such"}, view | {"pseudonymised": True, "user_id": "1:" + "0" * 64}]
    )
    assert (some.status, some.body["accepted"]) == (207, 1)
    assert [(each["position"], each["reason"]) for each in some.body["refused"]] == [(1, "unknown_event_type"), (2, "bad_id")]
    assert place.ask("/v1/events", body=[{}]).status == 422
    for kind in ("opt_out", "opt_in", "forget"):  # asked for by keys of another role
        assert place.ask("/v1/events", body=view | {"event_type": kind}).body["refused"][0]["field"] == "event_type"
    wait_until(lambda: any(event["event_id"] == "given" for event in place.events), 10, "no event")
    given = next(event for event in place.events if event["event_id"] == "given")
    assert given == late | {
        "user_id": PSEUDONYMS("eve"),
        "sealed_user_id": sealed("eve"),
        "pseudonymised": True,
        "attributes": {"fuel_type": "electric", "price": 1.0},
    }


def test_an_opt_out_is_in_force_with_the_next_request_and_is_published(place: Place) -> None:
    assert "electric" in json.dumps(place.ask("/v1/users/bob/why", "user_control").body)
    assert place.ask("/v1/users/bob/opt-out", "user_control", method="POST").body == {"opted_out": True}
    assert place.ask("/v1/users/bob/segments").body["reason"] == "opted_out"
    assert place.featured(user_id="bob")["reason"] == "opted_out"
    told = place.ask("/v1/users/bob/why", "user_control").body
    assert (told["segments"], told["profile"], told["choices"][0]["action"]) == ([], None, "opt_in")
    assert place.ask("/v1/users/bob/opt-in", "user_control", method="POST").body == {"opted_out": False}
    assert place.ask("/v1/users/bob/segments").body["reason"] == "unknown_user"  # what was before doesn't count
    kinds = lambda: [event["event_type"] for event in place.events if event.get("user_id") == PSEUDONYMS("bob")]  # noqa: E731
    wait_until(lambda: {"opt_out", "opt_in"} <= set(kinds()), 10, "no event")


def test_a_browser_that_is_linked_has_its_users_segments_and_whoever_opts_out_of_either_has_none(place: Place) -> None:
    assert place.ask("/v1/users/browser-of-dee/segments").body["segments"] == place.ask("/v1/users/dee/segments").body["segments"]
    assert place.featured(anonymous_id="browser-of-dee")["segments"]
    told = place.ask("/v1/users/dee/why?anonymous_id=browser-of-dee", "user_control").body
    assert "before you signed in counts too" in told["identity"]
    assert place.ask("/v1/users/dee/why", "user_control").body["identity"] is None
    place.ask("/v1/users/browser-of-dee/opt-out", "user_control", method="POST")
    for asked in ("dee", "browser-of-dee", "dee/segments?anonymous_id=browser-of-dee"):
        path = asked if "?" in asked else f"{asked}/segments"
        assert place.ask(f"/v1/users/{path}").body["reason"] == "opted_out"


def test_who_is_forgotten_is_unknown_with_the_next_request_and_with_them_the_browsers_they_signed_in_with(place: Place) -> None:
    assert place.ask("/v1/users/eli/segments").body["reason"] is None
    answer = place.ask("/v1/users/eli/forget", "user_control", method="POST")
    assert (answer.status, list(answer.body)) == (202, ["until"])
    for asked in ("eli", "browser-of-eli"):
        assert place.ask(f"/v1/users/{asked}/segments").body["reason"] == "unknown_user"
    wait_until(lambda: sum(event["event_type"] == "forget" for event in place.events) == 2, 10, "no events")
    user, browser = [event for event in place.events if event["event_type"] == "forget"]
    assert (user["user_id"], user["sealed_user_id"]) == (PSEUDONYMS("eli"), sealed("eli"))
    assert (browser["anonymous_id"], browser["sealed_anonymous_id"]) == (PSEUDONYMS("browser-of-eli"), sealed("browser-of-eli"))
    assert {user["event_time"], browser["event_time"]} == {answer.body["until"]}
    digests = {tombstone.digest for tombstone in open_store(f"sqlite:///{place.folder}/store.db").tombstones()}
    assert {digest_of(PSEUDONYMS(each)) for each in ("eli", "browser-of-eli")} <= digests


# --- who is let in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "role", "status"),
    [
        ("/v1/users/ann/segments", None, 401),
        ("/v1/users/ann/segments", "fc_no-such-key", 401),
        ("/v1/users/ann/segments", "user_control", 403),
        ("/v1/users/ann/segments", "metrics", 403),
        ("/v1/users/ann/why", "gateway", 403),
        ("/v1/users/ann/forget", "gateway", 403),
        ("/metrics", "gateway", 403),
        ("/metrics", "metrics", 200),
        ("/healthz", None, 200),
        ("/readyz", None, 200),
        ("/openapi.json", None, 200),
        ("/nowhere", None, 404),
    ],
)
def test_each_role_may_ask_for_its_own(place: Place, path: str, role: str | None, status: int) -> None:
    assert place.ask(path, role, method="POST" if path.endswith("forget") else None).status == status


def test_a_key_that_asks_too_often_is_told_when_to_come_back(place: Place) -> None:
    answers = [place.ask("/v1/users/ann/segments", "slow") for _ in range(6)]
    assert [answer.status for answer in answers[:3]] == [200] * 3
    assert answers[-1].status == 429
    assert int(answers[-1].headers["Retry-After"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"x" * (64 * 1024 + 1), 413, "must be at most 65536 bytes"),
        (b"", 400, "must be JSON"),
        (b"[" * 5_000, 400, "must be JSON"),
        (b'{"session_id": "s", "k": 11}', 400, r"k"),
        (b'{"session_id": "s", "k": 1.5}', 400, r"k"),
        (b'{"session_id": "s", "limit": 1}', 400, "limit"),
        (b'{"session_id": "\\u0000"}', 400, "session_id, must be"),
        (b'{"session_id": "s", "filters": {"colour": "red"}}', 422, "attribute == 'colour', must be one of"),
        (b'{"session_id": "s", "filters": {"fuel_type": "steam"}}', 422, "filters.fuel_type == 'steam', must be one of"),
        (b'{"session_id": "s", "filters": {"price": {"lt": "cheap"}}}', 422, "filters.price.lt == 'cheap', must be a number"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_would_be_right(place: Place, body: bytes, status: int, told: str) -> None:
    answer = place.ask("/v1/featured", body=body)
    assert answer.status == status
    assert told in answer.body["error"]["message"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/users/M%FCller/segments", "id, must be percent-encoded UTF-8"),  # Latin-1
        ("/v1/users/%ED%A0%80/segments", "id, must be percent-encoded UTF-8"),  # half of a surrogate pair
        ("/v1/users/100%/segments", "id, must be percent-encoded UTF-8"),
        ("/v1/users/%%341/segments", "id, must be percent-encoded UTF-8"),
        ("/v1/users/%4%34/segments", "id, must be percent-encoded UTF-8"),
        ("/v1/users/ann/segments?anonymous_id=M%FCller", "anonymous_id, must be percent-encoded UTF-8"),
        ("/v1/users/ann/segments?anonymous_id=a&anonymous%5Fid=b", "anonymous_id, must be given once"),
    ],
)
def test_an_id_that_cannot_be_told_is_refused_and_not_taken_for_another(place: Place, path: str, told: str) -> None:
    answer = place.ask(path)
    assert (answer.status, answer.body["error"]) == (400, {"code": "bad_id", "message": told})


def test_an_id_may_have_slashes_and_any_other_signs(place: Place) -> None:
    for raw_id in ("a/b", "/", "..", "a+b c%2F?#", "ü€"):
        path = urllib.parse.quote(raw_id, safe="")
        assert place.ask(f"/v1/users/{path}/opt-out", "user_control", method="POST").body == {"opted_out": True}
        assert place.ask(f"/v1/users/{path}/segments").body["reason"] == "opted_out"
        assert place.featured(user_id=raw_id)["reason"] == "opted_out"
        assert (
            place.ask(f"/v1/users/nobody/segments?{urllib.parse.urlencode({'anonymous_id': raw_id})}").body["reason"] == "opted_out"
        )


def test_what_needs_no_encoding_means_the_same_with_it(place: Place) -> None:
    assert place.ask("/v1/users/%63arl/%6Fpt%2Dout", "user_control", method="POST").body == {"opted_out": True}
    assert place.ask("/v1/users/carl/segments").body["reason"] == "opted_out"
    assert place.ask("/v1/users/%2563arl/segments").body["reason"] == "unknown_user"


def test_no_id_is_ever_logged(place: Place) -> None:
    place.ask("/v1/users/ann-with-secret-id/segments?anonymous_id=secret")
    place.ask("/v1/featured", body={"session_id": "secret", "user_id": "secret", "filters": {"x": "secret"}})
    place.ask("/v1/events", body={"user_id": "secret", "event_type": "secret"})
    assert "secret" not in place.gateway.said
    assert "secret" not in place.ask("/metrics", "metrics").body


def test_a_hangup_ends_nothing(place: Place) -> None:
    place.gateway.process.send_signal(signal.SIGHUP)
    assert place.featured()["positions"]
    assert place.gateway.process.poll() is None


@pytest.mark.parametrize(
    ("role", "paths", "phases"),
    [
        ("gateway", "segments|z$", "coverage,fuzzing"),
        ("gateway", "featured|events", "fuzzing"),  # their coverage takes a minute: by hand, with tests/schemathesis.toml
        ("user_control", "why|opt|forget", "coverage,fuzzing"),
        ("metrics", "metrics", "coverage,fuzzing"),
    ],
)
def test_schemathesis_finds_nothing(place: Place, role: str, paths: str, phases: str) -> None:
    address = f"http://{HOST}:{place.gateway.port}/openapi.json"
    options = ["--checks", "all", "--max-examples", "30", "--seed", "1", "--include-path-regex", paths, "--phases", phases]
    options += ["--header", f"Authorization: Bearer {place.tokens[role]}"]
    found = subprocess.run(
        [str(SCHEMATHESIS), "--config-file", str(ROOT / "tests/schemathesis.toml"), "run", address, *options],
        capture_output=True,
        text=True,
        cwd=place.folder,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-8_000:]
    assert re.search(r"\d+ generated, \d+ passed", found.stdout)


# --- the whole loop, and beginnings and ends -----------------------------------------------------------------------------


def test_exposures_reach_the_archive_and_tell_which_segments_clash(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FORECOURT_PSEUDONYM_KEY", KEY)
    for number in range(5):
        place.featured(session_id=f"clash-{number}", user_id="cat", filters={"fuel_type": "petrol"})
    wait_until(lambda: sum("clash-" in str(event.get("session_id")) for event in place.events) == 5, 10, "no exposures")
    assert run_archive(["--source", f"file:{place.folder}/events.jsonl", "--archive", str(tmp_path / "archive")]) == 0
    command = [sys.executable, "-m", "forecourt", "conflicts", "--archive", str(tmp_path / "archive"), "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout)
    assert any(each["segment"] == "electric" and each["attribute"] == "fuel_type" for each in told["conflicts"])


def test_a_changed_experiments_file_is_followed_and_a_broken_one_is_not(place: Place) -> None:
    (treated,) = sessions(place, "treatment", 1)
    path = place.folder / "experiments.yaml"
    try:
        path.write_text("version: [")
        wait_until(lambda: "experiments refused" in place.gateway.said, 20, "nothing is told")
        assert place.featured(session_id=treated, user_id="ann")["personalised"]
        path.write_text(EXPERIMENTS.replace("version: 3", "version: 4\nkill: true"))
        wait_until(lambda: place.featured(session_id=treated, user_id="ann")["reason"] == "killed", 20, "not killed")
    finally:
        path.write_text(EXPERIMENTS)
    wait_until(lambda: place.featured(session_id=treated, user_id="ann")["personalised"], 20, "not back")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"store": "nowhere"}, "store == 'nowhere'"),
        ({"host": "0.0.0.0"}, "must come with --access"),
        ({"port": 65_536}, "--port == 65536"),
        ({"events": "file:/no/such/folder/x"}, "events == file:/no/such/folder/x, must lie in a folder that exists"),
        ({"events": "file:/tmp"}, "events == file:/tmp, must be a file: it is a folder"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        Config(**{"store": "sqlite:////tmp/x.db", **options})


@pytest.mark.parametrize(
    ("option", "text", "told"),
    [
        ("inventory", '{"sponsored": true}\n', "listing_id"),
        ("experiments", "version: 1", "layers is missing"),
        ("settings", "deadline_ms: 0", "deadline_ms == 0, must be"),
        ("settings", "policy: dice", "policy == 'dice', must be one of"),
        ("access", "keys: []", "keys must be"),
    ],
)
def test_a_broken_file_ends_the_start_with_its_place(
    sqlite_store_uri: str, tmp_path: Path, option: str, text: str, told: str
) -> None:
    open_store(sqlite_store_uri).init()
    path = tmp_path / ("broken.jsonl" if option == "inventory" else "broken.yaml")
    path.write_text(text)
    command = [sys.executable, "-m", "forecourt", "serve", "--store", sqlite_store_uri, f"--{option}", str(path), "--port", "0"]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert ended.returncode == 2, ended.stderr
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_gateway_loads_neither_beam_nor_pandas_nor_great_expectations() -> None:
    code = "import pipelines.serve, sys; print([m for m in ('apache_beam', 'pandas', 'great_expectations') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout.strip() == "[]"
