"""Suites run by Great Expectations: the only file that imports it, and only when called (it takes seconds).

The context is ephemeral: nothing is kept, asked or sent. What Great Expectations calls a success is not taken on trust: a result
that is missing, an exception set aside in a result, and a value that couldn't be computed are failures.
"""

from __future__ import annotations

import contextlib
import html
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from expectations.checks import Check, Suite
from expectations.verdict import Finding

_MAX_EXAMPLES: Final = 3
_MAX_MESSAGE: Final = 200
_WITHOUT_VALUE: Final = "expect_column_to_exist"


class Outcome(NamedTuple):
    """What was found, in the order of the checks, and its part of the Data Docs, as HTML."""

    findings: tuple[Finding, ...]
    page: str


def validated(suite: Suite, *, render: bool) -> Outcome:
    """The suite run over its frame; ``page`` is empty unless it is to be rendered."""
    with _quiet():
        result = _run(suite)
        by_check = {each.expectation_config.meta["check"]: each for each in result.results}
        findings = tuple(_finding(suite.name, check, by_check.get(number)) for number, check in enumerate(suite.checks))
        return Outcome(findings, _page(result) if render else "")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No telemetry, warnings or log lines: stdout and stderr are the command's."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _run(suite: Suite) -> Any:
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig
    from great_expectations.expectations.registry import get_expectation_impl

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("forecourt").add_dataframe_asset(suite.name)
    batch = asset.add_batch_definition_whole_dataframe(suite.name).get_batch({"dataframe": suite.frame.to_pandas()})
    expectations = [
        get_expectation_impl(check.expectation)(
            **check.arguments,
            description=html.escape(f"{check.subject} must be {check.bound} ({check.expectation})"),
            meta={"check": number},
        )
        for number, check in enumerate(suite.checks)
    ]
    result_format: dict[str, Any] = {"result_format": "SUMMARY"}
    if suite.named_by is not None and suite.named_by in suite.frame.column_names:
        result_format["unexpected_index_column_names"] = [suite.named_by]
    return batch.validate(gx.ExpectationSuite(suite.name, expectations=expectations), result_format=result_format)


def _finding(suite: str, check: Check, result: Any) -> Finding:
    """What became of one check; fails closed."""
    found = Finding(suite, check.expectation, check.subject, check.observed, check.bound, success=False)
    if result is None:
        return found._replace(observed="no result")
    if (message := _exception_of(result.exception_info)) is not None:
        return found._replace(observed=message[:_MAX_MESSAGE])
    success = result.success is True
    if check.expectation == _WITHOUT_VALUE:
        return found._replace(success=success)
    observed = _observed(result.to_json_dict()["result"])
    if observed is None:
        return found._replace(observed=None)
    return found._replace(observed=observed if check.observed is None else check.observed, success=success)


def _exception_of(info: Mapping[str, Any] | None) -> str | None:
    """The message of an exception in a result, which has one or, of metrics that failed, one under each metric."""
    info = info or {}
    for each in (info, *info.values()):
        if isinstance(each, Mapping) and each.get("raised_exception"):
            return str(each.get("exception_message") or "an exception without a message")
    return None


def _observed(seen: Mapping[str, Any]) -> Any:
    """What Great Expectations saw, as plain JSON; ``None`` when there is no finite value."""
    if "observed_value" in seen and isinstance(seen["observed_value"], list):  # the columns of the frame
        return {"missing": sorted(seen.get("details", {}).get("mismatched", {}).get("missing", []))}
    if "observed_value" in seen:
        return _plain(seen["observed_value"])
    if "unexpected_count" not in seen:
        return None
    rows: Sequence[Any] = seen.get("partial_unexpected_index_list") or []
    named = rows and isinstance(rows[0], Mapping)
    examples: list[Any] = []
    for each in rows if named else seen.get("partial_unexpected_list", []):
        if (example := _plain(each)) not in examples and len(examples) < _MAX_EXAMPLES:
            examples.append(example)
    return {"unexpected": seen["unexpected_count"], "of": seen["element_count"], "examples": examples}


def _plain(value: Any) -> Any:
    if isinstance(value, float):  # numpy's too
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _page(result: Any) -> str:
    try:
        return _rendered(result)
    except Exception as error:  # noqa: BLE001  the findings stand without it
        return f"<p>Can't be shown: {html.escape(type(error).__name__)}</p>"


def _rendered(result: Any) -> str:
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaSectionView

    for each in result.results:
        if (message := _exception_of(each.exception_info)) is not None:
            each.exception_info = {"raised_exception": True, "exception_message": message[:_MAX_MESSAGE], "exception_traceback": ""}
        each.result = _escaped(each.result)
    _overview, *sections, _run_info = ValidationResultsPageRenderer(run_info_at_end=True).render(result).to_json_dict()["sections"]
    view = DefaultJinjaSectionView()
    return "".join(view.render({"section": each, "section_loop": {"index": place}}) for place, each in enumerate(sections, 1))


def _escaped(value: Any) -> Any:
    """Plain data with its texts escaped: the renderer puts values that fail into the page as they are."""
    value = _plain(value)
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {key: _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list) else value
