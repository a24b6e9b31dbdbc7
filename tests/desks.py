"""The service of a gateway, with listings of its own or in a search service: asked, told what was found, and what it wrote down."""

from __future__ import annotations

import asyncio
import functools
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from schemas.experiments import Experiments, parse_experiments
from schemas.release import Release
from schemas.rules import parse_rules
from schemas.settings import Settings
from serving.inventory import Inventory, load_inventory
from serving.messages import FeaturedAnswer, FeaturedRequest, ShownRequest
from serving.metrics import Metrics
from serving.reader import SegmentReader
from serving.service import Parts, Service
from tests.gateways import PSEUDONYMS
from tests.opensearch_dsl import search
from tests.plain_inventory import Row
from tests.strategies import CATALOGUE
from tests.test_featured_laws import rows_of
from tests.test_service import NOW, Box, Members

RULES: Final = """
version: {version}
segments:
  - {{name: electric, when: {{fuel_type: electric}}}}
  - {{name: suv, when: {{body_type: suv}}, weight: 2}}
  - {{name: kia, when: {{make: Kia}}, priority: 1}}
  - {{name: cheap, when: {{price: {{lt: 15}}}}}}
  - {{name: hydrogen, when: {{fuel_type: hydrogen}}}}
"""


@functools.cache
def release(version: int = 1) -> Release:
    return Release(parse_rules(RULES.format(version=version), CATALOGUE, "rules.yaml"), None, 0.0)


def experiments(policy: str = "highest_score", arms: tuple[str, str] = ("control", "treatment")) -> Experiments:
    """One experiment; with the arms the other way round every session is in the other."""
    told = ", ".join(f"{{name: {arm}, weight: 1, shows: {str(arm == 'treatment').lower()}, policy: {policy}}}" for arm in arms)
    text = f"""
version: 3
layers: [{{name: featured}}]
experiments:
  - {{name: first, version: 1, layer: featured, unit: session, ramp: 1, arms: [{told}]}}
"""
    return parse_experiments(text, "experiments.yaml")


class Stock(NamedTuple):
    rows: list[Row]
    inventory: Inventory


def stocks_in(folder: Path) -> list[Stock]:
    """Listings, no two of a rank, so that there is one default."""
    found = []
    for size, share in ((1, 1.0), (5, 0.3), (12, 0.7), (30, 0.05), (80, 0.3)):
        rows = [{**row, "rank": number * 7 % size} for number, row in enumerate(rows_of(size, share))]
        path = folder / f"{size}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found.append(Stock(rows, load_inventory(str(path), CATALOGUE)))
    return found


class Desk:
    """The service of a gateway, with or without an inventory, and what it wrote down."""

    def __init__(self, inventory: Inventory | None, segments: tuple[str, ...], running: Experiments | None, **parts: Any) -> None:
        self.metrics, self.box = Metrics(), Box()
        self.parts = Parts(
            SegmentReader(Members(*segments), PSEUDONYMS),
            PSEUDONYMS,
            CATALOGUE,
            Settings(conflict_sample=1.0),
            self.metrics,
            rules=lambda: release(),
            experiments=lambda: running,
            inventory=lambda: inventory,
            outbox=self.box,  # type: ignore[arg-type]
        )._replace(**parts)
        self.service = Service(self.parts)

    def featured(self, asked: dict[str, Any]) -> FeaturedAnswer:
        async def run() -> FeaturedAnswer:
            chosen = await self.service.featured(FeaturedRequest(**asked), NOW)
            answer = self.service.answer(chosen)
            self.service.expose(chosen)
            await self.parts.reader.close()
            return answer

        return asyncio.run(run())

    def shown(self, told: dict[str, Any], now: int = NOW + 200) -> FeaturedAnswer:
        chosen = self.service.shown(ShownRequest(**told), now)
        answer = self.service.answer(chosen)
        self.service.expose(chosen)
        return answer

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        samples = (sample for metric in self.metrics.registry.collect() for sample in metric.samples)
        return {
            tuple(each.labels.values()): each.value for each in samples if each.name == f"forecourt_{name}_total" and each.value
        }


def searched(answer: FeaturedAnswer, rows: list[Row]) -> dict[str, Any]:
    """What a search service sends for an answer."""
    assert answer.query is not None
    other = None if answer.other_query is None else over_http(search(answer.other_query, rows))
    return {"ticket": answer.ticket, "response": over_http(search(answer.query, rows)), "other_response": other}


def over_http(response: dict[str, Any]) -> dict[str, Any]:
    whole = {"took": 3, "timed_out": False, "_shards": {"total": 2, "successful": 2, "skipped": 0, "failed": 0}, **response}
    decoded: dict[str, Any] = json.loads(json.dumps(whole))
    return decoded


def in_arm(arm: str, **asked: Any) -> dict[str, Any]:
    """A request of a session in that arm."""
    for number in range(100):
        request = {"session_id": f"s{number}", "user_id": "ann", **asked}
        if Desk(None, (), experiments()).featured(request).assignment.arm == arm:
            return request
    raise AssertionError(arm)
