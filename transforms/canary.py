"""Which rules answer for whom while a candidate is on trial."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from schemas.profile_row import Membership
from schemas.release import Release, in_canary
from transforms.membership import Rules, Views, evaluate


def nobody(_key: str) -> bool:
    """Say no: the canary is empty."""
    return False


class Prepared(NamedTuple):
    """A release ready for ``evaluate``; ``in_canary`` says of a row key whether the candidate answers for it."""

    active: Rules
    candidate: Rules | None = None
    in_canary: Callable[[str], bool] = nobody


class Answers(NamedTuple):
    """What a row is to hold: the membership that is served, and the candidate's where that isn't the one served."""

    current: Membership
    shadow: Membership | None


def prepared(release: Release) -> Prepared:
    """The release with its rule sets made ready."""
    candidate = None if release.candidate is None else Rules(release.candidate)
    return Prepared(Rules(release.active), candidate, functools.partial(in_canary, release))


def answers_of(key: str, views: Views, rules: Prepared) -> Answers:
    """The memberships of one row; ``views`` as ``evaluate`` takes them."""
    if rules.candidate is None:
        return Answers(evaluate(views, rules.active), None)
    on_trial = evaluate(views, rules.candidate)
    return Answers(on_trial, None) if rules.in_canary(key) else Answers(evaluate(views, rules.active), on_trial)
