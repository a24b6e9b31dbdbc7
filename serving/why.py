"""Why users are in their segments, in plain words for them to read, with what is held of them and what they can do about it."""

from __future__ import annotations

from typing import Any, Final

from schemas.catalogue import Catalogue
from schemas.instants import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, format_instant
from schemas.profile_row import Profile
from schemas.rules import Not, Rule, RuleSet
from serving.reader import SegmentsRead
from serving.segments import Segment
from serving.why_words import clause_of, joined, plain, spoken

TOP_VALUES: Final = 3
SOON_MS: Final = 2 * DAY_MS  # what ends so soon is told by the minute

REASONS: Final = {
    "unknown_user": "There is no profile of you.",
    "no_segments": "What you have looked at lately puts you in no group.",
    "opted_out": "You have opted out: nothing you look at counts, you are in no group, and see what everybody sees.",
    "withdrawn": "The groups you would be in are not used at present, for they don't foretell well enough what people look at.",
    "timeout": "Your groups could not be read just now. Please try again.",
    "store_down": "Your groups could not be read just now. Please try again later.",
    "overloaded": "Your groups could not be read just now. Please try again later.",
    "bad_row": "Your groups can't be read at present.",
    "clock_behind": "Your groups could not be read just now. Please try again in some minutes.",
}
_LINKED: Final = "You have signed in with this browser: what you looked at in it before you signed in counts too."
_OPT_OUT: Final = (
    "You can opt out. Your profile is emptied then: you are in no group, and see what everybody sees, until you opt in again."
)
_OPT_IN: Final = "You can opt in again. What you look at from then on counts; what you looked at before doesn't."
_FORGET: Final = "You can have yourself forgotten. All that is held about you up to then is deleted, which can't be undone."
_MONTHS: Final = tuple("January February March April May June July August September October November December".split())
_UNITS: Final = (("day", DAY_MS), ("hour", HOUR_MS), ("minute", MINUTE_MS), ("second", SECOND_MS))


def why(
    user: str,
    read: SegmentsRead,
    profile: Profile | None,
    rules: RuleSet,
    at: int,
    catalogue: Catalogue | None = None,
    *,
    linked: bool = False,
) -> dict[str, Any]:
    """What a user is told at an instant (ms UTC); ``user`` is how the answer names them.

    ``linked``: they ask from a browser that is linked to them. ``rules`` explain the segments, the ``catalogue`` has the units.
    Segments by another version than that of the rules are named without their why: a reason that may be wrong is worse than none.
    """
    by_name = {rule.name: rule for rule in rules.rules} if rules.version == read.rule_version else {}
    out = read.reason == "opted_out"
    return {
        "user": user,
        "at": format_instant(at),
        "as_of": None if read.as_of is None else format_instant(read.as_of),
        "rule_version": read.rule_version,
        "summary": summary_of(read),
        "segments": [_explained(segment, by_name.get(segment.name), read, at, catalogue) for segment in read.segments],
        "identity": _LINKED if linked and not out else None,
        "profile": None if profile is None or out else profile_words(profile, at),
        "choices": [
            {"action": "opt_in", "words": _OPT_IN} if out else {"action": "opt_out", "words": _OPT_OUT},
            {"action": "forget", "words": _FORGET},
        ],
    }


def summary_of(read: SegmentsRead) -> str:
    """One sentence: in which groups, or why in none."""
    if not read.segments:
        return REASONS[read.reason or "no_segments"]
    titles = joined([f"“{title_of(segment.name)}”" for segment in read.segments], "and")
    return f"You are in {counted(len(read.segments), 'group')}: {titles}."


def sentences_of(segment: Segment, rule: Rule, as_of: int | None, at: int, catalogue: Catalogue | None = None) -> list[str]:
    """Why the user is in a segment, and until when."""
    length = span_words(rule.window)
    # The counts are those of the newest view, or later; once that is some time ago, they aren't those of "the last ten days".
    fresh = as_of is None or at - as_of <= min(DAY_MS, rule.window // 10)
    since = f"you looked at in the last {length}" if fresh else f"you had looked at within {length}"
    told = f"{_how_many(segment, since)} {_clause(segment, rule, catalogue)}."
    told = told if fresh else f"When last counted, {told[0].lower()}{told[1:]}"
    return [told, _ends(segment, at)]


def rule_words(rule: Rule) -> str:
    """When one comes into the segment of a rule, and when one leaves it."""
    fit = "all of them fit" if rule.enter == 1 else f"{rule.enter * 100:.4g} % or more of them fit"
    days = f", on {rule.min_days} different days or more" if rule.min_days > 1 else ""
    seen = f"{counted(rule.min_views, 'vehicle')} or more in {span_words(rule.window)}"
    words = [f"You come into this group once you have looked at {seen} and {fit}{days}."]
    words.append(f"You leave it when fewer than {rule.exit * 100:.4g} % of them fit.")
    if rule.half_life is not None:
        words.append(f"What you looked at {span_words(rule.half_life)} earlier counts half as much.")
    if rule.prior_views:
        words.append(f"We add {rule.prior_views:,g} to what you looked at, of which {percent(rule.prior_share)} fit.")
    return " ".join(words)


def profile_words(profile: Profile, at: int) -> dict[str, Any]:
    """What the profile holds: its numbers, and the same as sentences."""
    top = {name: list(shares.items())[:TOP_VALUES] for name, shares in profile.shares.items()}
    newest = f"{'' if profile.views == 1 else 'the newest '}on {date_words(profile.last_seen, at)}"
    return {
        "views": profile.views,
        "last_seen": format_instant(profile.last_seen),
        "shares": {name: [{"value": value, "share": share} for value, share in values] for name, values in top.items()},
        "sentences": [
            f"Your profile is made of {counted(profile.views, 'look')} at a vehicle, {newest}.",
            *(
                f"By {plain(name)}: {', '.join(f'{spoken(value)} {percent(share)}' for value, share in values)}."
                for name, values in top.items()
                if values
            ),
        ],
    }


def title_of(name: str) -> str:
    """A segment's name as one reads it.

    >>> title_of("electric_suv")
    'electric SUV'
    """
    return " ".join(spoken(word) for word in name.split("_"))


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "look"), counted(1200, "look")
    ('1 look', '1,200 looks')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def span_words(length: int) -> str:
    """A length of time (ms) in its largest whole unit.

    >>> span_words(10 * DAY_MS), span_words(36 * HOUR_MS), span_words(DAY_MS)
    ('10 days', '36 hours', '24 hours')
    """
    for noun, unit in _UNITS:
        if length % unit == 0 and (noun != "day" or length != DAY_MS):
            return counted(length // unit, noun)
    return f"{length / SECOND_MS:,g} seconds"


def date_words(instant: int, at: int) -> str:
    """A date as one says it: with the year when that isn't the year of ``at``, with the time when it is soon or was just now.

    >>> date_words(1_767_225_600_000, at=1_767_225_600_000 - 9 * DAY_MS)
    '1 January 2026'
    """
    text = format_instant(instant)
    year = "" if text[:4] == format_instant(at)[:4] else f" {text[:4]}"
    clock = f" at {text[11:16]} UTC" if abs(instant - at) <= SOON_MS else ""
    return f"{int(text[8:10])} {_MONTHS[int(text[5:7]) - 1]}{year}{clock}"


def percent(share: float) -> str:
    """A share as one says it; what isn't nothing or all is not called so.

    >>> percent(0.5), percent(0.001), percent(0.999), percent(1.0)
    ('50 %', 'under 1 %', 'over 99 %', '100 %')
    """
    if 0 < share < 0.01:
        return "under 1 %"
    if 0.99 < share < 1:
        return "over 99 %"
    return f"{share * 100:.0f} %"


def _explained(segment: Segment, rule: Rule | None, read: SegmentsRead, at: int, catalogue: Catalogue | None) -> dict[str, Any]:
    unknown = [f"It follows from version {read.rule_version} of the rules, which isn't at hand.", _ends(segment, at)]
    return {
        **segment._asdict(),
        "until": format_instant(segment.until),
        "title": title_of(segment.name),
        "sentences": unknown if rule is None else sentences_of(segment, rule, read.as_of, at, catalogue),
        "rule": None if rule is None else rule_words(rule),
    }


def _ends(segment: Segment, at: int) -> str:
    return f"This ends on {date_words(segment.until, at)} unless you look at more."


def _how_many(segment: Segment, since: str) -> str:
    views, matching = segment.views, segment.matching
    if views == 1:
        return f"The one vehicle {since}"
    if matching == views:
        return f"Both vehicles {since}" if views == 2 else f"All {views:,} vehicles {since}"
    return f"{matching or 'None':{',' if matching else ''}} of the {views:,} vehicles {since}"


def _clause(segment: Segment, rule: Rule, catalogue: Catalogue | None) -> str:
    none_of_one = segment.views == 1 and segment.matching == 0
    return clause_of(Not(rule.when) if none_of_one else rule.when, catalogue, many=segment.matching > 1)
