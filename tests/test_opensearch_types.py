"""The bodies are what the official clients of OpenSearch and Elasticsearch take: checked by their own request types.

A second witness beside the interpreter: the types are generated from both servers' specifications. Bodies, the mapping and the
interpreter's answers become object literals, of which the TypeScript compiler refuses a key that is unknown or misplaced and a
value of another shape. Its packages are pinned in ``tests/opensearch_types`` and installed there by npm the first time.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from serving import policies
from serving.featured import MAX_POSITIONS, Ask
from serving.opensearch import opensearch_body, opensearch_default_body, opensearch_mapping
from serving.wishes import MAX_WISHES, Wish
from tests.opensearch_dsl import search
from tests.strategies import CATALOGUE, ROOT, conditions
from tests.test_featured import CHEAP, ELECTRIC, ROWS, SUV, ask
from tests.test_featured_laws import ASKS
from tests.test_filters import parse

pytestmark = pytest.mark.alone

FOLDER: Final = ROOT / "tests/opensearch_types"
INSTALL_S: Final = 120
ENOUGH: Final = 40  # random questions of each kind: the compiler takes long to choose among all the types of query
REQUESTS: Final = ("OpenSearch.Search_RequestBody", "elastic9.SearchRequest", "elastic8.SearchRequest")
MAPPINGS: Final = (
    "OpenSearch.Indices_Create_RequestBody['mappings']",
    "elastic9.MappingTypeMapping",
    "elastic8.MappingTypeMapping",
)
HEAD: Final = (
    'import type { API as OpenSearch } from "@opensearch-project/opensearch";'
    'import type { estypes as elastic9 } from "@elastic/elasticsearch"; import type { estypes as elastic8 } from "elasticsearch8";'
)
OPTIONS: Final = ("--strict", "--noEmit", "--skipLibCheck", "--module", "nodenext", "--target", "es2022", "--types", "")

Compile = Callable[[list[tuple[str, Any]]], dict[int, str]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Literals, each with its type → what the compiler says of them, by place; nothing of those that it takes."""
    if shutil.which("npm") is None:
        pytest.skip("npm isn't installed: apt-get install nodejs npm")
    installed = FOLDER / "node_modules/.package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (FOLDER / "package-lock.json").stat().st_mtime:
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        try:
            subprocess.run(["npm", "ci", *quiet], cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_S, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as fault:
            pytest.skip(f"npm can't install the types: {str(fault.stderr or fault).strip()[-500:]}")
    folder = tmp_path_factory.mktemp("types")
    (folder / "node_modules").symlink_to(FOLDER / "node_modules")

    def compile_all(literals: list[tuple[str, Any]]) -> dict[int, str]:
        lines = [f"export const l{place}: {of} = {json.dumps(literal)};" for place, (of, literal) in enumerate(literals)]
        (folder / "literals.ts").write_text("\n".join([HEAD, *lines, ""]))
        done = subprocess.run(
            [FOLDER / "node_modules/.bin/tsc", *OPTIONS, "literals.ts"], cwd=folder, capture_output=True, text=True
        )
        said = re.findall(r"^literals\.ts\((\d+),\d+\): error (.*)$", done.stdout, re.MULTILINE)
        assert done.returncode == 0 or said, done.stdout + done.stderr
        return {int(line) - 2: message for line, message in said}

    return compile_all


def drawn(strategy: st.SearchStrategy[Any]) -> list[Any]:
    """Some of a strategy, the same ones always."""
    found = []

    @settings(max_examples=ENOUGH, derandomize=True, database=None, phases=[Phase.generate])
    @given(strategy)
    def take(one: Any) -> None:
        found.append(one)

    take()
    return found


def asks() -> list[Ask]:
    """Random questions and the extremes."""
    filters = [parse(when) for when in drawn(conditions())]
    whens = itertools.cycle(each.condition for each in filters if each.condition is not None)
    wishes = [Wish(f"w{place}", 0.5, 1.0, 0, when) for place, when in zip(range(MAX_WISHES), whens, strict=False)]
    found = [*drawn(ASKS), *(Ask(each, tuple(wishes[:3]), frozenset({"l1"}), "s", 2) for each in filters)]
    most = Ask(parse({}), tuple(wishes), frozenset(f"l{place}" for place in range(500)), "s", MAX_POSITIONS)
    return [*found, most, ask(), ask(ELECTRIC)]


def test_every_body_is_a_request_of_all_clients(compiled: Compile) -> None:
    questions = asks()
    turns = itertools.cycle(policies.POLICIES)
    bodies = [opensearch_body(question, policy) for question, policy in zip(questions, turns, strict=False)]
    bodies += [opensearch_body(ask(ELECTRIC, SUV, seen=["a"], k=2), policy) for policy in policies.POLICIES]
    bodies += [opensearch_default_body(question) for question in questions[:5]]
    different = {json.dumps(body): body for body in bodies}
    assert len(different) > 1.5 * ENOUGH
    literals = [(of, body) for body in different.values() for of in REQUESTS]
    assert {literals[place]: said for place, said in compiled(literals).items()} == {}


def test_the_mapping_is_one_of_all_clients(compiled: Compile) -> None:
    assert compiled([(of, opensearch_mapping(CATALOGUE)) for of in MAPPINGS]) == {}


BROKEN: Final = [  # what is written, and instead; wrong to every server
    ('"boost_mode"', '"boost_mood"'),
    ('"score_mode": "sum"', '"score_mode": "total"'),
    ('"functions": [', '"weight": 1, "functions": ['),
    ('"filter": {"match_all": {}}, "weight": 1', '"filter": {"match_all": {}, "weight": 1}'),
    ('"weight": 0.999', '"weight": "0.999"'),
    ('"random_score": {"seed"', '"random_score": {"sead"'),
    ('"random_score": {"seed"', '"random_scores": {"seed"'),
    ('"minimum_should_match": 0', '"minimum_should_mach": 0'),
    ('"_name": "electric"', '"name": "electric"'),
    ('"must_not"', '"mustnot"'),
    ('"range": {"price": {"lt"', '"ranges": {"price": {"lt"'),
    ('"filter": {"term"', '"filtr": {"term"'),
    ('"filters": {"filters"', '"filters": {"filter"'),
    ('"aggs": {"sponsored": {"filter"', '"aggs": {"sponsored": {"query"'),
    ('"order": "desc"', '"order": "down"'),
    ('"size": 2', '"size": "2"'),
    ('"track_total_hits"', '"total_hits"'),
    ('"query": {', '"queries": {'),
]


def test_the_compiler_sees_what_is_wrong_in_a_body(compiled: Compile) -> None:
    right = json.dumps(opensearch_body(ask(ELECTRIC, SUV, CHEAP, seen=["a"], k=2, price={"lt": 60_000}), "combined"))
    for written, _ in BROKEN:
        assert written in right
    literals = [(of, json.loads(right.replace(*mistake, 1))) for mistake in BROKEN for of in REQUESTS]
    said = compiled(literals)
    assert [BROKEN[place // len(REQUESTS)] for place in range(len(literals)) if place not in said] == []


def test_the_interpreter_answers_as_servers_do(compiled: Compile) -> None:
    response = search(opensearch_body(ask(ELECTRIC, SUV, k=3), "combined"), ROWS)
    hits = [hit | {"_index": "listings"} for hit in response["hits"]["hits"]]
    assert any("matched_queries" in hit for hit in hits)
    viable = response["aggregations"]["sponsored"]["viable"]
    right = [(f"{of}.SearchHit", hit) for of in ("elastic9", "elastic8") for hit in hits]
    right += [(f"{of}.AggregationsFiltersAggregate", viable) for of in ("elastic9", "elastic8")]
    assert compiled(right) == {}
    wrong = json.loads(json.dumps(right).replace('"matched_queries"', '"matched_names"').replace('"doc_count"', '"count"'))
    assert len(compiled(wrong)) == sum("matched_queries" in hit for _, hit in right) + 2
