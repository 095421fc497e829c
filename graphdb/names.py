"""Which known id a mistyped one may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection

CUTOFF = 0.75
MOST = 3


def nearest_ids(name: str, known: Collection[str], *, cutoff: float = CUTOFF) -> list[str]:
    """Find the ids that a mistyped one may have meant.

    OWNER/NAME never means what another owner has. A name without an owner may mean OWNER/NAME of every owner.

    Args:
        name: an id that is not known.
        known: the ids to choose from.
        cutoff: share of equal characters, from 0 to 1, from which an id is near.

    Returns:
        The nearest id, or all that have this name and an owner, sorted; empty where none is near.
    """
    if not _owner(name):
        owned = sorted(other for other in known if other.rpartition("/")[2] == name)
        if owned:
            return owned[:MOST]
    pool = [other for other in known if _owner(other) == _owner(name)]
    return difflib.get_close_matches(name, pool, 1, cutoff)


def _owner(name: str) -> str:
    owner, slash, _ = name.partition("/")
    return owner if slash else ""
