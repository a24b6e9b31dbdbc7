"""README and docs do what they say: commands are run, outputs compared, examples parsed, options and links looked up.

Blocks: ``console`` is run line by line (``$ ``, continued by ``> ``), what stands below a command is its output, ``...`` is
anything; ``sh`` is run whole. All of a document's blocks are one session in an empty folder. ``console live`` ones are another,
with the emulators up. ``sh no-run`` needs a cloud: of it the streams and archives are run with ``--dry_run``. ``make`` targets
are looked up. ``json`` is an event; a word behind it is the reason why it is refused.

FORECOURT_WRITE_DOCS=1 python -m pytest tests/test_docs.py writes the README's figures anew.
"""

from __future__ import annotations

import contextlib
import doctest
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import google.auth
import jsonschema
import pytest
import typer
from apache_beam.options.pipeline_options import PipelineOptions
from google.auth.exceptions import DefaultCredentialsError
from typer.testing import CliRunner

import forecourt
from experiments.analysis import analyse
from experiments.settings import AnalysisSettings
from pipelines.dead_letters import decode_dead_letter
from rules import CATALOGUE_PATH, RULES_PATH
from schemas.catalogue import parse_catalogue
from schemas.dead_letter import REASONS
from schemas.decoding import Attributes, decode_event
from schemas.errors import EventError
from schemas.event import json_schema
from schemas.experiment import Bandit, Controller, Experiment
from schemas.instants import clock_ms
from schemas.rules import parse_rules
from schemas.sessions import COLUMNS
from tests.made_sessions import drawn
from tests.strategies import ROOT
from transforms.rules_file import load_catalogue

pytestmark = pytest.mark.alone

DOCUMENTS: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md"]
SESSION_S: Final = 120.0
COMPLETE_MINUTES: Final = 20.0
STAND_INS: Final = {  # what a dry run reads where the documents name files of a cloud or a server
    "gs://my-bucket/segments.yaml": RULES_PATH,
    "gs://my-bucket/attributes.yaml": CATALOGUE_PATH,
    "/etc/forecourt/segments.yaml": RULES_PATH,
}
_FENCE: Final = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_MARK: Final = "--- end of command"
_ALIKE: Final = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_OPTION: Final = re.compile(r"(?<!\S)--[a-z][a-z_-]*")
_INLINE: Final = re.compile(r"`([^`\n]+)`")
_CALL: Final = re.compile(r"\bforecourt ((?:store|rules|experiment|access|keys) [a-z]+|[a-z-]+)([^|;&\n]*)")
_LINK: Final = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
_MEASURED: Final = re.compile(r"(?<=<!-- measured: )(.*?-->\n)(.*?)(?=<!-- end of measured -->)", re.DOTALL)


class Block(NamedTuple):
    """A fenced block: ``words`` are what stands behind the language."""

    where: str
    language: str
    words: tuple[str, ...]
    text: str


class Command(NamedTuple):
    """What is typed, and what must come out; ``None``: anything."""

    text: str
    expected: str | None


def blocks_of(document: Path) -> list[Block]:
    text = document.read_text()
    found = []
    for fence in _FENCE.finditer(text):
        language, *words = fence[1].split() or [""]
        where = f"{document.name}:{text[: fence.start()].count(chr(10)) + 1}"
        found.append(Block(where, language, tuple(words), fence[2]))
    return found


def commands_of(block: Block) -> list[Command]:
    """The commands in a block that is run."""
    if block.language == "sh":
        return [Command(block.text, None)]
    commands: list[Command] = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        first, *lines = part.splitlines()
        while lines and lines[0].startswith("> "):
            first += "\n" + lines.pop(0)[2:]
        commands.append(Command(first, "\n".join(lines) or None))
    return commands


def session_of(document: Path, *, live: bool) -> list[Command]:
    """What a document lets its reader type, ``make`` left out."""
    runs = [block for block in blocks_of(document) if block.language in {"sh", "console"} and "no-run" not in block.words]
    commands = [command for block in runs if ("live" in block.words) == live for command in commands_of(block)]
    return [command for command in commands if not command.text.startswith("make ")]


SESSIONS: Final = [
    pytest.param(document, live, id=f"{document.name}{'-live' if live else ''}")
    for document in DOCUMENTS
    for live in (False, True)
    if session_of(document, live=live)
]


def all_blocks(language: str) -> list[Any]:
    found = [block for document in DOCUMENTS for block in blocks_of(document) if block.language == language]
    assert found, language
    return [pytest.param(block, id=block.where) for block in found]


def typed_in(folder: Path, commands: list[Command], environment: Mapping[str, str]) -> list[str]:
    """What each command printed, in one ``bash -e``; fails at the first that ends with another status than 0."""
    script = "".join(f"{command.text}\nprintf '\\n%s\\n' '{_MARK}'\n" for command in commands)
    process = subprocess.Popen(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=SESSION_S)
    finally:
        with contextlib.suppress(ProcessLookupError):  # what was left in the background, also by a session that failed
            os.killpg(process.pid, signal.SIGKILL)
    outputs = printed.split(f"\n{_MARK}\n")
    if process.returncode:
        pytest.fail(f"$ {commands[len(outputs) - 1].text}\n{outputs[-1]}exit status {process.returncode}, must be 0")
    return outputs[:-1]


@pytest.mark.parametrize(("document", "live"), SESSIONS)
def test_commands_print_what_the_document_shows(document: Path, live: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if live:
        request.getfixturevalue("emulators_endpoints")
    ours = ("FORECOURT_", "COLUMNS") if live else ("FORECOURT_", "COLUMNS", "PUBSUB_EMULATOR", "BIGTABLE_EMULATOR")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100", "TERM": "dumb"}
    commands = session_of(document, live=live)
    for command, printed in zip(commands, typed_in(tmp_path, commands, environment), strict=True):
        if command.expected is not None:
            alike = doctest.OutputChecker().check_output(command.expected, printed, _ALIKE)
            assert alike, f"$ {command.text}\nprinted\n{printed}\nmust be\n{command.expected}"


def cloud_commands() -> Iterator[Any]:
    for document in DOCUMENTS:
        for block in blocks_of(document):
            for line in block.text.replace("\\\n", "").splitlines() if "no-run" in block.words else ():
                if line.startswith(("forecourt stream", "forecourt archive", "forecourt nightly")):
                    yield pytest.param(line, id=f"{block.where}-{line.split()[1]}")


@pytest.mark.parametrize("command", cloud_commands())
def test_what_needs_a_cloud_passes_its_dry_run_without_one(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(*_: Any, **__: Any) -> None:
        asked.append("credentials")
        raise DefaultCredentialsError

    monkeypatch.setattr(google.auth, "default", refuse)
    arguments = [STAND_INS.get(each, each) for each in shlex.split(command)[1:]]
    result = CliRunner().invoke(forecourt.app, [*arguments, "--dry_run"])
    assert result.exit_code == 0, result.exception
    assert not asked, "a dry run must not ask Google for anything"


def test_make_targets_exist() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    targets = sorted({*re.findall(r"^\$ make ([a-z-]+)", text, re.MULTILINE), *re.findall(r"`make ([a-z-]+)`", text)})
    assert len(targets) > 3
    subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, check=True, capture_output=True)


@functools.cache
def options_of(command: str) -> frozenset[str]:
    """The options that a command's ``--help`` shows; those of pipelines with Beam's."""
    known: Any = typer.main.get_command(forecourt.app)
    for name in command.split():
        assert name in known.commands, f"forecourt {command}: there is no such command"
        known = known.commands[name]
    options = {option for parameter in known.params for option in parameter.opts}
    options |= set(_OPTION.findall(CliRunner().invoke(forecourt.app, [*command.split(), "--help"]).stdout.replace("[", " ")))
    if command in {"stream", "archive", "nightly", "backtest"}:
        options |= {f"--{name}" for name in PipelineOptions([]).get_all_options()}
    return frozenset({*options, "--help"})


def names_of(group: Any, before: str = "") -> Iterator[str]:
    """All commands of the command line."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from names_of(command, f"{before}{name} ")
        else:
            yield before + name


COMMANDS: Final = (
    "stream",
    "archive",
    "simulate",
    "replay-dead-letters",
    "demo",
    "emulators",
    "store init",
    "segments",
    "rules-check",
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_options_exist(document: Path) -> None:
    text = document.read_text().replace("\\\n", " ")
    spans = _INLINE.findall(_FENCE.sub("", text))
    blocks = [block.text.replace("\\\n", " ") for block in blocks_of(document) if block.language in {"sh", "console", "text"}]
    for place in (*spans, *blocks):
        for command, rest in _CALL.findall(place):
            if not place.startswith("forecourt COMMAND"):
                for option in _OPTION.findall(rest.split(" -- ")[0]):
                    assert option in options_of(command), f"forecourt {command} has no {option}"
    every = frozenset[str]().union(*map(options_of, names_of(typer.main.get_command(forecourt.app))))
    for span in spans:
        if span.startswith("--"):
            assert _OPTION.findall(span)[0] in every, f"no command has {span}"


def slug_of(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in _LINK.findall(_FENCE.sub("", document.read_text())):
        if path.startswith("https://"):
            continue
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name}: {path}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", target.read_text()), re.MULTILINE)
            assert anchor in map(slug_of, headings), f"{document.name}: {path}#{anchor}"


@pytest.mark.parametrize("block", all_blocks("yaml"))
def test_yaml_examples_pass_rules_check(block: Block) -> None:
    if block.text.startswith("attributes:"):
        assert parse_catalogue(block.text, block.where).attributes
        return
    text = block.text if block.text.startswith("version:") else f"version: 1\nsegments:\n{textwrap.indent(block.text, '  ')}"
    assert parse_rules(text, load_catalogue(CATALOGUE_PATH), block.where).rules


@pytest.mark.parametrize("block", all_blocks("json"))
def test_json_examples_decode_or_are_refused_as_stated(block: Block) -> None:
    if block.words == ("dead-letter",):
        assert decode_dead_letter(block.text.encode()).reason in REASONS
        return
    attributes = Attributes(load_catalogue(CATALOGUE_PATH))
    if block.words:
        with pytest.raises(EventError) as refused:
            decode_event(block.text.encode(), attributes, clock_ms())
        assert (refused.value.reason,) == block.words
        return
    decoded = decode_event(block.text.encode(), attributes, clock_ms())
    assert (decoded.unknown_attributes, decoded.unknown_values) == (0, 0)
    jsonschema.validate(json.loads(block.text), json_schema())


def rows_of(document: str, columns: str) -> list[list[str]]:
    """The cells of a table, found by its head."""
    _, _, below = (ROOT / document).read_text().partition(columns + "\n")
    table = below.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


def test_the_table_of_reasons_is_complete() -> None:
    assert rows_of("docs/events.md", "| reason | when |") == [[f"`{reason}`", when] for reason, when in REASONS.items()]


def test_the_table_of_attributes_is_complete() -> None:
    shown = [row[:2] for row in rows_of("docs/rules.md", "| attribute | kind | |")]
    catalogue = load_catalogue(CATALOGUE_PATH)
    assert shown == [[f"`{name}`", attribute.kind] for name, attribute in catalogue.attributes.items()]


def test_the_columns_of_the_sessions_table_are_complete() -> None:
    shown = rows_of("docs/analysis.md", "| column | type | required | |")
    assert shown == [[f"`{each.name}`", str(each.type), "yes" if each.required else "", each.text] for each in COLUMNS]


def test_the_keys_of_experiments_and_what_changes_them_are_complete() -> None:
    text = (ROOT / "docs/experiments.md").read_text()
    for key in (*Experiment._fields, *Controller._fields, *Bandit._fields):
        assert re.search(rf"^\|[^|]*`{key}`", text, re.MULTILINE), key
    for head, type_ in (("| key of `controller` | default | |", Controller), ("| key of `bandit` | default | |", Bandit)):
        defaults = {name.strip("`"): default.strip("`") for name, default, _ in rows_of("docs/experiments.md", head)}
        assert defaults == {key: "none" if value is None else f"{value}" for key, value in type_()._asdict().items()}


def names_in(part: Any) -> Iterator[str]:
    """All keys of a document, but names of segments."""
    for key, value in part.items() if isinstance(part, dict) else ():
        yield key
        yield from (name for each in (value.values() if key == "segments" else [value]) for name in names_in(each))
    for each in part if isinstance(part, list) else ():
        yield from names_in(each)


def test_the_keys_of_the_analysis_are_complete() -> None:
    section = (ROOT / "docs/analysis.md").read_text().partition("## The JSON document")[2].partition("## Power")[0]
    told = set(re.findall(r"[`.](\w+)(?=[`.])", section))
    document = analyse(drawn(1), AnalysisSettings("session"))
    assert told == {*names_in(document), "NAME", "page", "null"}


def test_false_alarms_are_those_of_the_last_benchmark() -> None:
    results = json.loads((ROOT / "benchmarks/results/false_alarms.json").read_text())

    def told(unit: str, reading: str) -> str:
        share = results["shares"][unit][reading]
        return f"{100 * share['share']:g} ({100 * share['low']:.1f}–{100 * share['high']:.1f})"

    shown = rows_of("docs/analysis.md", "| reading | sessions randomised | users randomised |")
    assert shown == [[text, told("session", name), told("user", name)] for name, text in results["readings"].items()]
    columns = [(unit, reading) for unit in ("session", "user") for reading in ("fixed", "always_valid", "segments_holm")]
    few = rows_of(
        "docs/analysis.md",
        "| setting | sessions: one look | always-valid | segments, Holm | users: one look | always-valid | segments, Holm |",
    )
    assert few == [
        [name, *(f"{100 * found[unit][reading]['share']:g}" for unit, reading in columns)]
        for name, found in results["other_settings"].items()
    ]
    users = results["shares"]["user"]
    for reading in ("always_valid", "peeked_naive"):
        assert f"{100 * users[reading]['share']:g} %" in (ROOT / "README.md").read_text()


def test_the_speed_of_analyses_is_that_of_the_last_benchmark() -> None:
    text = (ROOT / "docs/analysis.md").read_text()
    for each in json.loads((ROOT / "benchmarks/results/analysis.json").read_text())["results"][:2]:
        assert f"{each['seconds']:.0f} s and {each['peak_mb']:,} MB" in text


def measured() -> str:
    """The README's figures, from a complete run of the benchmark; without one, how to make it."""
    path = ROOT / "benchmarks/results/stream.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if not results.get("baselines") or results["memory"]["minutes"] < COMPLETE_MINUTES:
        return "Run `make bench-stream`: speed, freshness and memory on your machine, beside two other ways to do it.\n"
    machine, fresh, memory = results["machine"], results["freshness"], results["memory"]
    packages = machine["packages"]
    rows = [(each["way"], f"{each['events_per_s']:,} events/s, {each['peak_mb']:,.0f} MB") for each in results["throughput"]]
    rows += [
        (f"publish → row, {fresh['load_per_s']} events/s", f"p50 {fresh['p50_ms']:,.0f} ms, p99 {fresh['p99_ms']:,.0f} ms"),
        (f"memory, {memory['minutes']:g} minutes at {memory['load_per_s']} events/s", f"at most {memory['peak_mb']:,.0f} MB"),
    ]
    for each in results["kernel"]:
        rows.append((f"spans of a user, {each['views']:,} views × {each['rules']} rules", f"{each['evaluate_us']:,.0f} µs"))
    for each in results["baselines"]:
        rate = "no result" if each["events_per_s"] is None else f"{each['events_per_s']:,.0f} events/s"
        rows.append((f"for comparison: {each['name']}", f"{rate} ({each['note']})"))
    where = f"{machine['cores']} cores, {machine['system']}, Python {machine['python']}, Beam {packages['apache-beam']}"
    text = f"`make bench-stream` on {where}; emulators on the same cores.\n\n| | |\n|---|---|\n"
    return text + "".join(f"| {what} | {figure} |\n" for what, figure in rows)


def test_the_figures_are_those_of_the_last_complete_benchmark() -> None:
    text = (ROOT / "README.md").read_text()
    found = _MEASURED.search(text)
    assert found is not None
    if os.environ.get("FORECOURT_WRITE_DOCS"):
        (ROOT / "README.md").write_text(text[: found.start(2)] + measured() + text[found.end(2) :])
        return
    assert found[2] == measured()
