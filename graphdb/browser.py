"""Neo4j Browser on the matching graph: names short enough to read, a style, and statements to begin with.

Browser styles edges by their type alone, so `graphdb.refresh` repeats results as edges `BEST`, `GOOD`, `FAIR`
and `POOR`, by rank within their dataset, and the nearest datasets as `NEAREST` and `NEAR`. Nothing but
Browser reads these.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

from matchgraph.graphdb import queries

if TYPE_CHECKING:
    from matchgraph.graphdb.runner import Runner

BROWSE = "browse"
LONGEST_NAME = 28
# Where a name may be broken.
SEPARATORS = re.compile(r"[-_\s]+")
RULE = re.compile(r"([\w.]+) \{\n(.*?)\n\}", re.DOTALL)


def short_names(ids: Iterable[str]) -> dict[str, str]:
    """Names to caption nodes by: without the owner and the words that all begin with, in words that can stand
    below each other. Where two ids would get one name, each keeps its own id.

    Args:
        ids: of all models, or of all datasets.

    Returns:
        The name of each id.
    """
    words = {identifier: SEPARATORS.split(identifier.rpartition("/")[2] or identifier) for identifier in ids}
    while (
        len(words) > 1
        and len({own[0] for own in words.values()}) == 1
        and all(len(own) > 1 for own in words.values())
    ):
        words = {identifier: own[1:] for identifier, own in words.items()}
    names = {identifier: " ".join(own).strip() or identifier for identifier, own in words.items()}
    names = {
        identifier: name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
        for identifier, name in names.items()
    }
    shared = Counter(names.values())
    return {identifier: name if shared[name] == 1 else identifier for identifier, name in names.items()}


def first_commands() -> str:
    """What Browser runs when it has connected to the managed server: the style, and no edges but those asked
    for.
    """
    text = importlib.resources.files("matchgraph.cypher").joinpath("graph.grass").read_text(encoding="utf-8")
    rules = {
        selector: {
            # Without the quotes, which JSON would escape and neo4j.conf would then lose.
            name.strip(): value.strip().strip('"')
            for name, _, value in (line.partition(":") for line in body.split(";") if line.strip())
        }
        for selector, body in RULE.findall(text)
    }
    return f"config autoComplete: false; style {json.dumps(rules)}"


def address(browser: str, uri: str, user: str, database: str | None, text: str) -> str:
    """The address of Browser with the server, the user and a text in its editor filled in.

    Args:
        browser: address of Neo4j Browser.
        uri: Bolt address of the server.
        user: the user's name.
        database: None for the user's home database.
        text: what the editor holds.
    """
    scheme, _, host = uri.partition("://")
    place = f"{scheme}://{quote(user, safe='')}@{host}"
    named = "" if database is None else f"&db={quote(database, safe='')}"
    return f"{browser}?dbms={quote(place, safe='')}{named}&cmd=edit&arg={quote(text, safe='')}"


def statements(runner: Runner) -> str:
    """Statements to begin with, for Browser's editor: the first one runs, the others are comments.

    Args:
        runner: the graph's server; a model and a dataset of the graph are the examples.
    """
    model, dataset = (
        next((str(row["id"]) for row in runner.read(queries.load(f"read/{kind}-ids"))), f"a {kind}")
        for kind in ("model", "dataset")
    )
    parts = []
    for number, name in enumerate(queries.names(BROWSE)):
        text = queries.load(f"{BROWSE}/{name}").strip()
        # For a person to edit: a literal, where a statement that is run has a parameter.
        for parameter, value in (("$model", model), ("$dataset", dataset)):
            text = text.replace(parameter, json.dumps(value, ensure_ascii=False))
        lines = text.splitlines()
        parts.append(text if number == 0 else "\n".join([lines[0], *(f"// {line}" for line in lines[1:])]))
    return "\n\n".join(parts)
