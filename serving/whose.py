"""Which row answers for a visitor: of an id's rows under several keys, and of a user's and their browser's."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from schemas.identity import Link
from schemas.profile_row import ProfileRow
from schemas.pseudonym import Pseudonyms
from serving.store.protocol import Store


def opted_out(row: ProfileRow) -> bool:
    """Whether its person is, by whoever evaluated it; while nobody has, and it is nobody else's, by what the row says itself.

    A row's own opt-out isn't the last word once it was evaluated: another id of the person may have opted in since.
    """
    return row.emptied == "opted_out" or (row.opted_out and row.link is None and says_nothing(row))


def says_nothing(row: ProfileRow) -> bool:
    """Whether nobody has evaluated the row: it isn't there, or has something to say of its id alone."""
    return row.membership is None and row.emptied is None


def row_of_names(rows: Sequence[ProfileRow]) -> ProfileRow:
    """Of an id's rows under several keys, the newest first, the one that counts; an opt-out holds under whichever key.

    A row that has a link and hasn't been evaluated yet goes with the membership that another has: it is about to be moved.
    """
    row = rows[0] if len(rows) == 1 else min(rows, key=_rank)
    evaluated = next((other for other in rows if other.membership is not None), None)
    if evaluated is None or not says_nothing(row) or opted_out(row):
        return row
    return row._replace(membership=evaluated.membership, profile=evaluated.profile, candidate=evaluated.candidate)


def is_anothers(row: ProfileRow, names: Collection[str]) -> bool:
    """Whether the row belongs to somebody who has none of these names."""
    return row.link is not None and row.link.other not in names


def names_in(link: Link, pseudonyms: Pseudonyms) -> tuple[str, ...]:
    """What the user in a link may be called: by the name in it alone, or where there are several keys, by all of theirs."""
    return pseudonyms.names_of(link.other, link.sealed) if len(pseudonyms.ring.keys) > 1 else (link.other,)


def followed(row: ProfileRow, user: ProfileRow) -> ProfileRow:
    """Of a row and that of the user whom it belongs to, the one that answers."""
    # The link was written this moment, the user's row not yet; whether they opted out is known even so.
    return row if says_nothing(user) and not opted_out(user) and row.membership is not None else user


def read_rows_of(store: Store, pseudonyms: Pseudonyms, raw_ids: Sequence[str]) -> dict[str, ProfileRow]:
    """The rows that answer for ids, those of users and of browsers, in two reads at most."""
    names = {raw_id: pseudonyms.names(raw_id) for raw_id in raw_ids}
    found = store.read_rows([name for each in names.values() for name in each])
    rows = {raw_id: row_of_names([found[name] for name in each]) for raw_id, each in names.items()}
    links = {raw_id: row.link for raw_id, row in rows.items() if row.link is not None and not opted_out(row)}
    users = {raw_id: names_in(link, pseudonyms) for raw_id, link in links.items()}
    if users:
        found = store.read_rows(list(dict.fromkeys(name for each in users.values() for name in each)))
        rows |= {raw_id: followed(rows[raw_id], row_of_names([found[name] for name in each])) for raw_id, each in users.items()}
    return rows


def _rank(row: ProfileRow) -> int:
    if opted_out(row):
        return 0
    if row.membership is not None or row.link is not None:
        return 1
    return 2 if row.emptied is not None else 3
