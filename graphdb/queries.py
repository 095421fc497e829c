"""Named Cypher statements: one statement per commented file under `cypher/`, loaded by `folder/name`.

A file begins with comment lines. The first is its title, the following ones describe it, and a line
`// :param name type default -- help` declares a parameter; one without a default is required.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

from matchgraph.graphdb.errors import ParameterInvalid, QueryNotFound
from matchgraph.graphdb.names import listed, nearest_ids

EXPLORE = "explore"
# The last three are strings that name something in the graph.
PARAMETER_TYPES = ("string", "integer", "float", "boolean", "metric", "model", "dataset")
_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_PARAMETER = re.compile(r":param (?P<name>[a-z_]+) (?P<type>[a-z]+)(?: (?P<default>\S+))? -- (?P<help>.+)")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a named query.

    Attributes:
        name: as in `$name`.
        type: one of `PARAMETER_TYPES`.
        default: its default, None where a value is required.
        help: what it is, with its unit.
    """

    name: str
    type: str
    default: str | int | float | bool | None
    help: str

    @property
    def required(self) -> bool:
        """Whether the query cannot run without a value."""
        return self.default is None

    def parse(self, text: str) -> str | int | float | bool:
        """The value that `text` stands for.

        Raises:
            ParameterInvalid: it is not of the parameter's type.
        """
        try:
            match self.type:
                case "integer":
                    return int(text)
                case "float":
                    return float(text)
                case "boolean":
                    return {"true": True, "false": False}[text.lower()]
                case _:
                    return text
        except (ValueError, KeyError):
            raise ParameterInvalid(f"{self.name} is {text!r}: {self.type} needed.") from None


@dataclass(frozen=True)
class QueryInfo:
    """A named query.

    Attributes:
        name: its file's name without the ending.
        title: the first line of its comment.
        description: the further lines, one paragraph, may be empty.
        parameters: in the order of the file.
    """

    name: str
    title: str
    description: str
    parameters: tuple[Parameter, ...]

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters to run it with: those given, and defaults for the rest.

        Raises:
            ParameterInvalid: a required one is missing, or one is unknown.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                raise ParameterInvalid(
                    f"The query {self.name} has no parameter {name!r}{did_you_mean(name, known)}."
                )
        values = {}
        for name, parameter in known.items():
            values[name] = given.get(name, parameter.default)
            if values[name] is None:
                raise ParameterInvalid(f"The query {self.name} needs a {name}: {parameter.help}.")
        return values


@functools.cache
def load(name: str) -> str:
    """The text of a statement, comments included.

    Args:
        name: `folder/name`, without `.cypher`.

    Raises:
        QueryNotFound: there is no such file; the message names the nearest one.
    """
    folder, _, stem = name.partition("/")
    if _NAME.fullmatch(folder) and _NAME.fullmatch(stem):
        file = _root() / folder / f"{stem}.cypher"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    known = names(folder) if _NAME.fullmatch(folder) else ()
    raise QueryNotFound(
        f"There is no query {stem or name!r}{did_you_mean(stem, known)}. List them with `matchgraph query`."
    )


def names(folder: str) -> tuple[str, ...]:
    """The statements of a folder, sorted."""
    directory = _root() / folder
    if not directory.is_dir():
        return ()
    return tuple(
        sorted(f.name.removesuffix(".cypher") for f in directory.iterdir() if f.name.endswith(".cypher"))
    )


@functools.cache
def describe(name: str) -> QueryInfo:
    """Title, description and parameters of an exploration query.

    Raises:
        QueryNotFound: there is none of that name.
    """
    comments = []
    for line in load(f"{EXPLORE}/{name}").splitlines():
        if not line.startswith("//"):
            break
        comments.append(line.removeprefix("//").strip())
    parameters = tuple(_parameter(line, name) for line in comments if line.startswith(":param"))
    prose = [line for line in comments if not line.startswith(":param")]
    return QueryInfo(name, prose[0], " ".join(prose[1:]).strip(), parameters)


def catalogue() -> list[QueryInfo]:
    """All exploration queries, by name."""
    return [describe(name) for name in names(EXPLORE)]


def did_you_mean(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """The remark ` (did you mean 'X'?)` for a message about `word`, nothing where no known word is near."""
    near = nearest_ids(word, known, cutoff=0.5)
    return f" (did you mean {listed(near, word)}?)" if near else ""


def _parameter(line: str, query: str) -> Parameter:
    match = _PARAMETER.fullmatch(line)
    if match is None or match["type"] not in PARAMETER_TYPES:
        raise ParameterInvalid(f"explore/{query}.cypher: {line!r} is not `:param name type default -- help`.")
    parameter = Parameter(match["name"], match["type"], None, match["help"])
    if match["default"] is None:
        return parameter
    return Parameter(match["name"], match["type"], parameter.parse(match["default"]), match["help"])


def _root() -> Traversable:
    return importlib.resources.files("matchgraph.cypher")
