"""What an experiment's document comes to, in words: what to do, and why. Nothing is said that the document withholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from experiments.effects import BANDIT, RAMP_UP, ROLL_BACK
from experiments.settings import PRIMARY
from experiments.wording import change_text, interval_text, level_text, number_text, p_text, percent_text

Tone = Literal["stop", "good", "bad", "mixed", "open"]
NAMES: Final[Mapping[str, str]] = {PRIMARY: "vehicles viewed a session", "ctr": "click-through rate", "lead": "lead rate"}


class Verdict(NamedTuple):
    """What to do in a few words, and the sentences that say why."""

    tone: Tone
    headline: str
    sentences: tuple[str, ...]


def verdict_of(document: Mapping[str, Any]) -> Verdict:
    """The verdict on a document of ``analysis.analyse``."""
    if not document["readable"]:
        return Verdict("stop", "Do not read this experiment.", tuple(_sentence(reason) for reason in document["reasons"]))
    primary = document["metrics"][PRIMARY]
    if primary["effect"] is None or not primary["se"]:
        return Verdict("open", "Nothing can be told yet.", (_sentence(primary["reason"] or "there is no effect"),))
    tone, headline = _headline(document)
    return Verdict(tone, headline, tuple(filter(None, [_overall(document), *_guardrails(document), _differ(document)])))


def at_planned_end(document: Mapping[str, Any]) -> bool:
    """Whether the sessions that were planned are there, so that one fixed-horizon look is due."""
    return bool(
        document["planned_sessions_given"] and sum(document["population"]["triggered"].values()) >= document["planned_sessions"]
    )


def is_early(document: Mapping[str, Any]) -> bool:
    """Whether sessions were planned that are not there yet."""
    return bool(document["planned_sessions_given"]) and not at_planned_end(document)


def _headline(document: Mapping[str, Any]) -> tuple[Tone, str]:
    up, back, left = (_segments(document, action) for action in (RAMP_UP, ROLL_BACK, BANDIT))
    parts = [
        f"{what} {_listed(names)}" for what, names in (("ramp up", up), ("roll back", back), ("leave to its bandit", left)) if names
    ]
    risky = any(each["passed"] is False for each in document["guardrails"])
    if up or back:
        tone: Tone = "mixed" if (up and back) or risky else "good" if up else "bad"
        return tone, _sentence("; ".join(parts) + (", but look at the guardrails first" if risky and up else ""))
    if (way := _direction(document)) != 0:
        overall = "Better overall" if way > 0 else "Worse overall"
        alone = ", though no single segment is certain" if document["segments"] else ""
        first = ", and a guardrail is not passed" if risky and way > 0 else ""
        return ("mixed" if risky else "good") if way > 0 else "bad", f"{overall}{alone}{first}."
    if at_planned_end(document):
        return "open", "No difference was found."
    if is_early(document):
        counted = sum(document["population"]["triggered"].values())
        return "open", f"Keep testing: {counted:,} of {document['planned_sessions']:,} planned sessions."
    return "open", "Keep testing: no difference is certain yet."


def _direction(document: Mapping[str, Any]) -> int:
    """1 where treatment is better for certain, -1 where it is worse; by the one look at the planned end, else always valid."""
    primary = document["metrics"][PRIMARY]
    if at_planned_end(document):
        return 0 if primary["p"] is None or primary["p"] >= document["alpha"] else 1 if primary["effect"] > 0 else -1
    low, high = document["sequential"]["ci"] or (0, 0)  # the p-value is the least so far: of an effect the other way, perhaps
    return 1 if low > 0 else -1 if high < 0 else 0


def _overall(document: Mapping[str, Any]) -> str:
    primary, ended = document["metrics"][PRIMARY], at_planned_end(document)
    interval = primary["ci"] if ended else document["sequential"]["ci"]
    kind = "at the planned end" if ended else "valid however often one looks"
    rel = "" if primary["rel"] is None else f" ({change_text(primary['rel'])})"
    text = (
        f"In triggered sessions the effect is {number_text(primary['effect'], primary['se'], sign=True)} {NAMES[PRIMARY]}{rel}, "
        f"from {number_text(primary['control'], primary['se'])} in control"
    )
    return text + (
        "." if interval is None else f"; {level_text(document['alpha'])} interval {interval_text(interval, primary['se'])}, {kind}."
    )


def _guardrails(document: Mapping[str, Any]) -> list[str]:
    return [
        f"Not shown to be safe: {NAMES[each['metric']]} may have lost more than {percent_text(each['margin'])}."
        for each in document["guardrails"]
        if each["passed"] is False
    ]


def _differ(document: Mapping[str, Any]) -> str:
    p = document["interaction"]["p"]
    if p is None:
        return ""
    differ = "differs between segments" if p < document["alpha"] else "is not known to differ between segments"
    return f"The effect {differ} (p {p_text(p)})."


def _segments(document: Mapping[str, Any], action: str) -> list[str]:
    return [name for name, each in document["segments"].items() if each["action"] == action]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."
