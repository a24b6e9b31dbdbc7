"""What an experiment's document comes to, in words: what to do, and why. Nothing is said that the document withholds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from experiments.effects import BANDIT, RAMP_UP, ROLL_BACK
from experiments.settings import PRIMARY

Tone = Literal["stop", "good", "bad", "mixed", "open"]
NONE: Final = "–"
MINUS: Final = "\N{MINUS SIGN}"
NAMES: Final[Mapping[str, str]] = {PRIMARY: "vehicles viewed a session", "ctr": "click-through rate", "lead": "lead rate"}
SHARES: Final = frozenset({"ctr", "lead"})
_MOST_DECIMALS: Final = 8


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


def number_text(value: float | None, se: float | None = None, *, share: bool = False, sign: bool = False) -> str:
    """A mean, a share (in per cent) or a difference of them (``sign``; of shares, in percentage points), in as many digits as
    its standard error makes sense of.

    >>> number_text(5.12345, 0.0312), number_text(-0.00123, 0.0005, share=True, sign=True), number_text(None)
    ('5.123', '−0.123 pp', '–')
    """  # noqa: D205
    if value is None:
        return NONE
    scale = 100 if share else 1
    decimals = 2 if not se else min(max(1 - math.floor(math.log10(scale * se)), 0), _MOST_DECIMALS)
    text = f"{scale * value:{'+' if sign else ''},.{decimals}f}".replace("-", MINUS)
    return text + (" pp" if sign else " %") * share


def interval_text(interval: Sequence[float] | None, se: float | None = None, *, share: bool = False) -> str:
    """An interval of differences.

    >>> interval_text([-0.012, 0.34], 0.09)
    '−0.012 to +0.340'
    """
    return NONE if interval is None else " to ".join(number_text(end, se, share=share, sign=True) for end in interval)


def percent_text(share: float | None) -> str:
    """A relative difference.

    >>> percent_text(-0.0456)
    '−4.6 %'
    """
    return NONE if share is None else f"{share:+.1%}".replace("-", MINUS).replace("%", " %")


def level_text(alpha: float) -> str:
    """The level of intervals.

    >>> level_text(0.05), level_text(0.001)
    ('95 %', '99.9 %')
    """
    return f"{100 * (1 - alpha):.4g} %"


def p_text(p: float | None) -> str:
    """A p-value.

    >>> p_text(0.04321), p_text(1e-9), p_text(0.5)
    ('0.043', '< 0.0001', '0.50')
    """
    return NONE if p is None else "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


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
    rel = "" if primary["rel"] is None else f" ({percent_text(primary['rel'])})"
    text = (
        f"In triggered sessions the effect is {number_text(primary['effect'], primary['se'], sign=True)} {NAMES[PRIMARY]}{rel}, "
        f"from {number_text(primary['control'], primary['se'])} in control"
    )
    return text + (
        "." if interval is None else f"; {level_text(document['alpha'])} interval {interval_text(interval, primary['se'])}, {kind}."
    )


def _guardrails(document: Mapping[str, Any]) -> list[str]:
    return [
        f"Not shown to be safe: {NAMES[each['metric']]} may have lost more than {100 * each['margin']:g} %."
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
