"""Conditions of the rules in plain English, as one says of what a view is about: "electric and (a suv or …)".

``not`` is carried down to the attributes first, which changes nothing of what holds, so that a sentence says it where it belongs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from schemas.catalogue import Attribute, Catalogue
from schemas.rules import All, Any_, Band, Condition, Equals, Not

_ABBREVIATIONS: Final = frozenset({"suv", "mpv", "lpg", "cng"})
_BE: Final[Mapping[str, str]] = {  # what one says of a vehicle, where "had the make Volvo" would be stiff
    "fuel_type": "{}",
    "make": "made by {}",
    "model": "of the model {}",
    "body_type": "of the body type {}",
}


class Predicate(NamedTuple):
    """What is said of vehicles: that they are, or have, something; or don't."""

    verb: str  # "be" or "have"
    what: str
    negative: bool


def words_of(condition: Condition, catalogue: Catalogue | None = None) -> str:
    """The condition as words that stand behind a noun, units from the catalogue.

    >>> words_of(All((Equals("fuel_type", frozenset({"electric"})), Band("price", gte=20_000, lt=40_000))))
    'electric and with a price of at least 20,000 and below 40,000'
    """
    return _told(_inward(condition), lambda leaf: _noun_phrase(predicate_of(leaf, catalogue)))


def clause_of(condition: Condition, catalogue: Catalogue | None = None, *, many: bool = True) -> str:
    """The condition as the end of a sentence in the past about ``many`` vehicles, or about one.

    >>> clause_of(Not(Equals("fuel_type", frozenset({"diesel"}))))
    'were not diesel'
    """
    return _told(_inward(condition), lambda leaf: _clause(predicate_of(leaf, catalogue), many))


def predicate_of(leaf: Condition, catalogue: Catalogue | None = None) -> Predicate:
    """A condition on one attribute, or its ``Not``, as what is said of a vehicle."""
    negative = isinstance(leaf, Not)
    inner = leaf.condition if isinstance(leaf, Not) else leaf
    assert isinstance(inner, Equals | Band)
    known = catalogue.attributes.get(inner.attribute) if catalogue else None
    if isinstance(inner, Equals) and all(isinstance(value, str) for value in inner.values):
        values = joined(sorted(spoken(str(value)) for value in inner.values), "or")
        if inner.attribute in _BE:
            return Predicate("be", _BE[inner.attribute].format(values), negative)
        return Predicate("have", f"the {plain(inner.attribute)} {values}", negative)
    noun = _noun_of(inner.attribute, known)
    if isinstance(inner, Equals):
        amount = "of " + joined([_number(value, inner.attribute, known) for value in sorted(map(float, inner.values))], "or")
    else:
        amount = _band(inner, known)
    return Predicate("have", f"{'an' if noun[0] in 'aeiou' else 'a'} {noun} {amount}", negative)


def spoken(value: str) -> str:
    """A category as one reads it: underscores as blanks, a few abbreviations in capitals.

    >>> spoken("plug_in_hybrid"), spoken("suv")
    ('plug in hybrid', 'SUV')
    """
    return value.upper() if value in _ABBREVIATIONS else plain(value)


def plain(name: str) -> str:
    """A name with blanks for underscores."""
    return name.replace("_", " ")


def _inward(condition: Condition, negative: bool = False) -> Condition:
    """The same, with ``Not`` around single attributes only; a lone part stands for itself."""
    if isinstance(condition, Not):
        return _inward(condition.condition, not negative)
    if isinstance(condition, Equals | Band):
        return Not(condition) if negative else condition
    kind = All if isinstance(condition, All) != negative else Any_
    parts: list[Condition] = []
    for part in condition.conditions:
        inner = _inward(part, negative)
        parts.extend(inner.conditions if isinstance(inner, kind) else [inner])
    parts = list(dict.fromkeys(parts))
    return parts[0] if len(parts) == 1 else kind(tuple(parts))


def _told(condition: Condition, leaf: Callable[[Condition], str]) -> str:
    if not isinstance(condition, All | Any_):
        return leaf(condition)
    parts = [f"({_told(part, leaf)})" if isinstance(part, All | Any_) else leaf(part) for part in condition.conditions]
    return joined(parts, "and" if isinstance(condition, All) else "or")


def _noun_phrase(predicate: Predicate) -> str:
    words = predicate.what if predicate.verb == "be" else f"with {predicate.what}"
    return f"not {words}" if predicate.negative else words


def _clause(predicate: Predicate, many: bool) -> str:
    if predicate.verb == "have":
        return f"{'did not have' if predicate.negative else 'had'} {predicate.what}"
    return f"{'were' if many else 'was'}{' not' if predicate.negative else ''} {predicate.what}"


def _band(band: Band, known: Attribute | None) -> str:
    bounds = (("of at least", band.gte), ("above", band.gt), ("of at most", band.lte), ("below", band.lt))
    return " and ".join(f"{word} {_number(bound, band.attribute, known)}" for word, bound in bounds if math.isfinite(bound))


def _noun_of(name: str, known: Attribute | None) -> str:
    """What an attribute is called; a unit such as ``year of manufacture`` says it better than ``year``."""
    unit = known.unit if known else None
    return unit if unit and unit.startswith(f"{plain(name)} ") else plain(name)


def _number(number: float, name: str, known: Attribute | None) -> str:
    """A number as one reads it, with its unit where that is one word; a year has no thousands.

    >>> _number(30000.0, "mileage", Attribute("mileage", "number", "km", frozenset())), _number(2020.0, "year", None)
    ('30,000 km', '2020')
    """
    year = "year" in name.split("_")
    digits = f"{number:.0f}" if year and number == int(number) else f"{number:,.10g}" if abs(number) < 1e10 else f"{number:,.0f}"
    unit = known.unit if known and known.unit and " " not in known.unit and not year else None
    return f"{digits} {unit}" if unit else digits


def joined(words: Sequence[str], last: str) -> str:
    """Words in a row.

    >>> joined(["a", "b", "c"], "or")
    'a, b or c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
