"""Scores of one's own: a table of how well candidates did on prompts, by people or by any metric.

Long tables have a row for each score: the prompt, the candidate, its value, and perhaps the metric, the cost
of an image, the rater and the image. Wide tables have a row for each prompt and a column of values for each
candidate. Several values of one candidate on one prompt (raters, images) give a mean and its spread. A long
table without values may name the images themselves, which are then to be scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from matchgraph.errors import Error
from matchgraph.graphdb.checks import check_id, check_metric_name
from matchgraph.graphdb.prompt_models import Unit, check_prompt
from matchgraph.routing.errors import BadScoreFile
from matchgraph.training.contents import recognise
from matchgraph.training.prompt_files import PROMPT_FIELDS

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

# Names of a column, in any case, in the order in which they count.
NAMES = {
    "prompt": PROMPT_FIELDS,
    "candidate": ("candidate", "variant", "model"),
    "metric": ("metric",),
    "value": ("value", "score", "rating", "quality"),
    "image": ("image",),
}
COSTS: Mapping[str, Unit] = {"tflop": "TFLOP", "seconds": "s", "latency_s": "s", "usd": "USD"}
# Told apart in a long table, but of no use beyond the spread.
SOURCES = ("rater", "annotator", "image", "seed", "sample")
READERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}


@dataclass(frozen=True)
class Values:
    """All values of one candidate on one prompt.

    Attributes:
        values: at least one.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return math.fsum(self.values) / len(self.values)

    @property
    def std(self) -> float | None:
        """Their sample standard deviation; None of one value."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class ScoreFile:
    """The scores of a file.

    Attributes:
        prompts: texts, each once, in file order.
        candidates: names, in file order.
        scores: by metric, candidate and prompt.
        costs: of an image of each candidate, as far as the file says.
        unit: of the costs; None where the file has none, or does not say of which unit they are.
        notes: columns that are not read.
        images: files by candidate and prompt, in a table without values; there are no scores then.
    """

    prompts: tuple[str, ...]
    candidates: tuple[str, ...]
    scores: Mapping[str, Mapping[tuple[str, str], Values]]
    costs: Mapping[str, float] = field(default_factory=dict)
    unit: Unit | None = None
    notes: tuple[str, ...] = ()
    images: Mapping[tuple[str, str], tuple[Path, ...]] = field(default_factory=dict)


def read_score_file(path: Path, metric: str | None = None, unit: Unit | None = None) -> ScoreFile:
    """Read scores.

    Args:
        path: CSV, TSV, JSON Lines, a JSON list of objects, or Parquet; see the module. A column `tflop`,
            `seconds` (or `latency_s`) or `usd` has the cost of an image, as has `cost`, whose unit it leaves
            open.
        metric: name of the metric where no column has it; by default the name of the column of values, or
            `score` where that is `value` and in a wide table. Without a column of values, a column `image`
            has the paths of images, from the folder of the table.
        unit: of the costs: its own column is read, or `cost` where there is none; by default `cost`, or the
            first of the others.

    Raises:
        BadScoreFile: it is no such table, or a row cannot be used (the message has its number, from 1 below
            the header).
    """
    frame = read_frame(path)
    columns = {name: column_of(frame, names) for name, names in NAMES.items()}
    if columns["prompt"] is None:
        raise BadScoreFile(f"{path} has no column prompt; it has {_named(frame.columns)}.")
    if columns["candidate"] is None:
        return _wide(path, frame, columns["prompt"], metric or "score")
    if columns["value"] is None and columns["image"] is None:
        raise BadScoreFile(
            f"{path} has no column value (or score, rating, quality), and no column image; it has "
            f"{_named(frame.columns)}."
        )
    return _long(path, frame, columns, metric, unit)


def _long(
    path: Path,
    frame: pd.DataFrame,
    columns: Mapping[str, str | None],
    metric: str | None,
    unit: Unit | None,
) -> ScoreFile:
    prompt, candidate, value = columns["prompt"], columns["candidate"], columns["value"]
    image = columns["image"] if value is None else None
    named = [name for name, own in COSTS.items() if own == unit]
    costs = column_of(frame, [*named, "cost", *(() if unit else COSTS)])
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    images: dict[tuple[str, str], tuple[Path, ...]] = {}
    prices: dict[str, float] = {}
    prompts: dict[str, None] = {}
    candidates: dict[str, None] = {}
    for number, row in enumerate(frame.to_dict("records"), start=1):
        where = f"{path}, row {number}"
        text, name = _prompt(row[prompt], where), _candidate(row[candidate], where)
        prompts[text] = candidates[name] = None
        if image is not None:
            images[name, text] = (*images.get((name, text), ()), _image(path, row[image], where))
        else:
            by = _checked(check_metric_name, _metric(row, columns, metric), where)
            score = _number(row[value], f"{where}: {value}")
            if score is None:
                raise BadScoreFile(f"{where}: {value} is empty: fill it in, or delete the row.")
            found.setdefault(by, {}).setdefault((name, text), []).append(score)
        cost = None if costs is None else _number(row[costs], f"{where}: {costs}")
        if cost is not None and prices.setdefault(name, cost) != cost:
            raise BadScoreFile(
                f"{where}: {name} costs {cost:g} here and {prices[name]:g} above: give one cost."
            )
    used = {*columns.values(), costs}
    if image is not None:
        # All images are scored by one metric, which the command gives.
        used.discard(columns["metric"])
    unread = [str(name) for name in frame.columns if name not in used and str(name).lower() not in SOURCES]
    known = None if costs is None else COSTS.get(costs.lower())
    return replace(_file(path, prompts, candidates, found, prices, known, unread), images=images)


def _wide(path: Path, frame: pd.DataFrame, prompt: str, metric: str) -> ScoreFile:
    others = [str(name) for name in frame.columns if name != prompt]
    rows = frame.to_dict("records")
    scored = [name for name in others if _numeric(row[name] for row in rows)]
    _checked(check_metric_name, metric, str(path))
    if len(scored) < 2:
        raise BadScoreFile(
            f"{path} has no column candidate, and fewer than two columns of numbers: name the columns "
            "prompt, candidate and value, or give each candidate a column."
        )
    found: dict[tuple[str, str], list[float]] = {}
    prompts: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        text = _prompt(row[prompt], where)
        prompts[text] = None
        for name in scored:
            value = _number(row[name], f"{where}: {name}")
            if value is not None:
                found.setdefault((_candidate(name, where), text), []).append(value)
    unread = [name for name in others if name not in scored]
    return _file(path, prompts, dict.fromkeys(scored), {metric: found}, {}, None, unread)


def _file(
    path: Path,
    prompts: Mapping[str, None],
    candidates: Mapping[str, None],
    found: Mapping[str, Mapping[tuple[str, str], Sequence[float]]],
    costs: Mapping[str, float],
    unit: Unit | None,
    unread: Sequence[str],
) -> ScoreFile:
    if not prompts:
        raise BadScoreFile(f"{path} has no rows.")
    scores = {
        metric: {at: Values(tuple(values)) for at, values in own.items()} for metric, own in found.items()
    }
    notes = (f"{path.name}: not read: {', '.join(map(repr, unread))}",) if unread else ()
    return ScoreFile(tuple(prompts), tuple(candidates), scores, costs, unit, notes)


def read_frame(path: Path, what: str = "scores", refused: type[Error] = BadScoreFile) -> pd.DataFrame:
    """Read a table, the cells of a CSV file as text.

    Args:
        path: CSV, TSV, JSON Lines, a JSON list of objects, or Parquet.
        what: it should have, for messages.
        refused: raised where it is no such file, or cannot be read.
    """
    import pandas as pd

    kind, content = READERS.get(path.suffix.lower()), recognise(path)
    if content is not None and content.kind not in ("json", "jsonl", "parquet"):
        raise refused(f"{path} is {content.name}, not {what}: give one of {', '.join(READERS)}.")
    try:
        if kind == "csv":
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            return pd.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        if kind == "json":
            lines = path.suffix.lower() != ".json"
            return pd.read_json(path, lines=lines, orient="records", dtype=False, convert_dates=False)
        if kind == "parquet":
            return pd.read_parquet(path)
    except ImportError as error:
        raise refused(f"{path}: {str(error).splitlines()[0]} (pip install pyarrow).") from None
    except (OSError, ValueError) as error:
        raise refused(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    raise refused(f"{path} is none of {', '.join(READERS)}: give one of these.")


def column_of(frame: pd.DataFrame, names: Sequence[str]) -> str | None:
    """The column that has one of some names, in any case; the first of these counts."""
    known = {str(name).strip().lower(): str(name) for name in reversed(list(frame.columns))}
    return next((known[name] for name in names if name in known), None)


def _named(columns: Any) -> str:
    return ", ".join(map(repr, columns)) or "none"


def _metric(row: Mapping[str, Any], columns: Mapping[str, str | None], metric: str | None) -> str:
    if columns["metric"] is not None:
        return str(row[columns["metric"]]).strip()
    own = str(columns["value"]).strip().lower()
    return metric or ("score" if own == "value" else own)


def _prompt(value: Any, where: str) -> str:
    text = value.strip() if isinstance(value, str) else value
    return str(_checked(check_prompt, text, where))


def _candidate(value: Any, where: str) -> str:
    name = value.strip() if isinstance(value, str) else str(value)
    _checked(partial(check_id, kind="variant"), name, where)
    return name


def _image(table: Path, value: Any, where: str) -> Path:
    path = table.parent / str(value).strip()
    if _empty(value) or not path.is_file():
        raise BadScoreFile(f"{where}: there is no image {str(value)!r}: give its path from {table.parent}.")
    return path


def _checked(check: Callable[[Any], T], value: Any, where: str) -> T:
    try:
        return check(value)
    except Error as error:
        raise BadScoreFile(f"{where}: {error}") from None


def _numeric(values: Any) -> bool:
    """Whether all that is filled in are numbers, and something is."""
    filled = [value for value in values if not _empty(value)]
    return bool(filled) and all(_parsed(value) is not None for value in filled)


def _number(value: Any, what: str) -> float | None:
    """A finite number, None of an empty cell."""
    if _empty(value):
        return None
    number = _parsed(value)
    if number is None or not math.isfinite(number):
        raise BadScoreFile(f"{what} is {str(value)[:40]!r}: write a finite number, or leave it empty.")
    return number


def _parsed(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _empty(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
