"""The stream's graph, held against golden lists: a changed step, transform or coder would break a Dataflow job's ``--update``.

After a change that is meant: FORECOURT_WRITE_GOLDEN=1 python -m pytest tests/test_graph.py, and look at the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.coders import coders
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2

from pipelines import stream
from transforms.local_runner import local_runner

GOLDEN = Path(__file__).parent / "golden"
FIVE_STEPS = ["ReadEvents", "DecodeEvents", "Pseudonymise", "KeyByUser", "MaintainWindows"]
SOURCES = {
    "dataflow": stream.Config("pubsub://p-roject/subscriptions/events", "bigtable://p-roject/i/t", runner="DataflowRunner"),
    "pull": stream.Config("pubsub://p-roject/subscriptions/events", "bigtable://p-roject/i/t"),
    "file": stream.Config("file:events.jsonl", "sqlite:///profiles.db"),
}


def graph_of(config: stream.Config) -> beam_runner_api_pb2.Pipeline:
    pipeline = beam.Pipeline(runner=local_runner(), options=PipelineOptions(["--streaming"]))
    stream.build(pipeline, config)
    return pipeline.to_runner_api()


def coder_name(graph: beam_runner_api_pb2.Pipeline, coder_id: str) -> str:
    coder = graph.components.coders[coder_id]
    inner = ", ".join(coder_name(graph, component) for component in coder.component_coder_ids)
    urn = coder.spec.urn
    if urn == "beam:coder:pickled_python:v1":
        urn = type(coders.Coder.from_runner_api(coder, None)).__name__
    return f"{urn}({inner})" if inner else urn


def steps_of(config: stream.Config) -> list[list[str]]:
    """``[step, urn, coders of its outputs]`` for every step that has no parts of its own."""
    graph = graph_of(config)
    return sorted(
        [
            step.unique_name,
            step.spec.urn,
            ", ".join(sorted(coder_name(graph, graph.components.pcollections[out].coder_id) for out in step.outputs.values())),
        ]
        for step in graph.components.transforms.values()
        if not step.subtransforms and step.unique_name
    )


@pytest.mark.parametrize("name", SOURCES)
def test_steps_transforms_and_coders_are_as_deployed(name: str) -> None:
    steps, golden = steps_of(SOURCES[name]), GOLDEN / f"stream_{name}.json"
    if os.environ.get("FORECOURT_WRITE_GOLDEN"):
        golden.write_text("[\n" + ",\n".join("  " + json.dumps(step) for step in steps) + "\n]\n")
    assert steps == json.loads(golden.read_text())


@pytest.mark.parametrize("name", SOURCES)
def test_a_reader_sees_five_steps_and_where_refusals_go(name: str) -> None:
    graph = graph_of(SOURCES[name])
    root = graph.components.transforms[graph.root_transform_ids[0]]
    names = [graph.components.transforms[step].unique_name for step in root.subtransforms]
    assert [step for step in names if step in FIVE_STEPS] == FIVE_STEPS
    assert set(names) - set(FIVE_STEPS) == {"WriteDeadLetters", "WriteRefusedViews"}


def test_nothing_leaves_the_stage_between_decoding_and_the_rows() -> None:
    grouping = "beam:transform:group_by_key:v1"
    assert all(urn != grouping for config in SOURCES.values() for _, urn, _ in steps_of(config))


def test_a_dry_run_for_dataflow_needs_no_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORECOURT_PSEUDONYM_KEY", raising=False)
    arguments = [
        "--source",
        "pubsub://p-roject/subscriptions/events",
        "--store",
        "bigtable://p-roject/i/t",
        "--runner",
        "DataflowRunner",
    ]
    assert stream.run([*arguments, "--project", "p-roject", "--region", "europe-west1", "--dry_run"]) == 0
