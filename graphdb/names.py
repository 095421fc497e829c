"""Which known id a mistyped one may have meant."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Iterable

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
        Those that differ in case or the code points of accents alone, or all that have this name and an
        owner, sorted; else the nearest id; empty where none is near.
    """
    if same := sorted(other for other in known if other != name and as_read(other) == as_read(name)):
        return same[:MOST]
    if not _owner(name):
        owned = sorted(other for other in known if other.rpartition("/")[2] == name)
        if owned:
            return owned[:MOST]
    pool = [other for other in known if _owner(other) == _owner(name)]
    return difflib.get_close_matches(name, pool, 1, cutoff)


def as_read(name: str) -> str:
    """A name without what readers do not tell apart: case, and how Unicode writes accents."""
    return unicodedata.normalize("NFKC", name).casefold()


def alike(new: Iterable[str], known: Iterable[str] = ()) -> list[str]:
    """What to say of names that readers take for the same: each group with a new one, in ASCII.

    Args:
        new: names that are added.
        known: those that are there.
    """
    groups: dict[str, dict[str, None]] = {}
    added = set(new)
    for name in sorted(added.union(known)):
        groups.setdefault(as_read(name), {})[name] = None
    found = [group for group in groups.values() if len(group) > 1 and added & group.keys()]
    return [
        f"{' and '.join(map(ascii, group))} are different names here: rename one if both mean the same."
        for group in found
    ]


def listed(near: Iterable[str], name: str) -> str:
    """Known ids, for a message about `name`: `'a' or 'b'`; in ASCII those that look the same as it."""
    shown = unicodedata.normalize("NFKC", name)
    return " or ".join(
        ascii(one) if unicodedata.normalize("NFKC", one) == shown else repr(one) for one in near
    )


def _owner(name: str) -> str:
    owner, slash, _ = name.partition("/")
    return owner if slash else ""
