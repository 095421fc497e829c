"""The prompt level of a graph written beside other records, see `ingest.tables.prompt_records`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.graphdb.prompt_models import Prompt, Score, Variant
from matchgraph.ingest.errors import BadInput, IngestError
from matchgraph.ingest.tables.csv_file import write_table
from matchgraph.ingest.tables.prompt_records import (
    EMBEDDINGS,
    INDEX_COLUMNS,
    PROMPT_COLUMNS,
    PROMPTS,
    SCORES,
    STD,
    TABLES,
    VARIANT_COLUMNS,
    VARIANTS,
    PromptRecords,
    read_prompt_records,
)
from matchgraph.training.files import SCRATCH_PREFIX, publish, write_tensors

if TYPE_CHECKING:
    from matchgraph.graphdb.prompts import PromptGraph


def prompt_records(graph: PromptGraph) -> PromptRecords:
    """The prompt level of a graph, as records keep it: variants by model and cost."""
    return PromptRecords(
        tuple(graph.prompts()),
        tuple(sorted(graph.variants(), key=lambda variant: (variant.model, variant.cost, variant.id))),
        tuple(score for metric in graph.metrics() for score in graph.scores(metric)),
    )


def write_prompt_records(records: PromptRecords, folder: Path) -> dict[str, int]:
    """Write a prompt level beside other records; nothing where there is none.

    Args:
        records: as `prompt_records` gives them.
        folder: gets the files, each whole or not at all; those that are there are replaced.

    Returns:
        How many rows each file got.

    Raises:
        IngestError: a value would not come back from its text in a table as it was, or the folder has files
            of another prompt level that would stay; nothing is written.
    """
    tables = _score_tables(records)
    with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=folder) as name:
        scratch = Path(name)
        counts = {}
        if records.prompts:
            counts[PROMPTS] = counts[EMBEDDINGS] = len(records.prompts)
            _write_prompts(scratch, records.prompts)
        if records.variants:
            counts[VARIANTS] = len(records.variants)
            _write_variants(scratch / VARIANTS, records.variants)
        if tables:
            counts[SCORES] = len(tables)
            write_table(scratch / SCORES, INDEX_COLUMNS, [table.about for table in tables])
            (scratch / TABLES).mkdir()
        for table in tables:
            counts[f"{TABLES}/{table.about['file']}"] = len(table.rows)
            write_table(scratch / TABLES / table.about["file"], table.columns, table.rows)
        _check_written(scratch, records)
        if strays := sorted({str(path.relative_to(folder)) for path in _files(folder)} - counts.keys()):
            raise IngestError(
                f"{folder / strays[0]} is of another export, and the graph has nothing to replace it: delete "
                "it, or name another folder."
            )
        for file in counts:
            (folder / file).parent.mkdir(exist_ok=True)
            publish(scratch / file, folder / file)
    return counts


@dataclass(frozen=True)
class _ScoreTable:
    """A table to be written: its row in the list of tables, and its own columns and rows."""

    about: Mapping[str, Any]
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]


def _score_tables(records: PromptRecords) -> list[_ScoreTable]:
    """One table for each metric, scorer and number of images; the largest has the metric's name."""
    groups: dict[tuple[str, str, int], list[Score]] = {}
    for score in records.scores:
        groups.setdefault((score.metric, score.scorer, score.samples), []).append(score)
    tables, numbers = [], dict.fromkeys((metric for metric, _, _ in groups), 0)
    for about in sorted(groups, key=lambda about: (about[0], -len(groups[about]), *about[1:])):
        metric = about[0]
        numbers[metric] += 1
        number = "" if numbers[metric] == 1 else f"-{numbers[metric]}"
        named = dict(zip(INDEX_COLUMNS, (*about, f"{metric}{number}.csv"), strict=True))
        tables.append(_score_table(named, groups[about], records))
    return tables


def _score_table(about: Mapping[str, Any], scores: Sequence[Score], records: PromptRecords) -> _ScoreTable:
    cells: dict[str, dict[str, Any]] = {}
    scored, deviating = set(), set()
    for score in scores:
        row = cells.setdefault(score.prompt, {"prompt": score.prompt})
        row[score.variant] = score.value
        scored.add(score.variant)
        if score.std is not None:
            row[score.variant + STD] = score.std
            deviating.add(score.variant)
    columns = ["prompt"]
    for variant in records.variants:
        if variant.id in scored:
            columns += [variant.id, variant.id + STD] if variant.id in deviating else [variant.id]
    return _ScoreTable(about, columns, [cells[p.id] for p in records.prompts if p.id in cells])


def _write_prompts(folder: Path, prompts: Sequence[Prompt]) -> None:
    rows = [
        {
            **prompt.properties,
            "id": prompt.id,
            "text": prompt.text,
            "split": prompt.split,
            "probe": prompt.probe,
        }
        for prompt in prompts
    ]
    further = sorted({name for prompt in prompts for name in prompt.properties})
    write_table(folder / PROMPTS, (*PROMPT_COLUMNS, *further), rows)
    if len({prompt.embedding.size for prompt in prompts}) > 1:
        raise IngestError("The prompts' embeddings differ in length: embed all of them with one CLIP.")
    write_tensors(
        folder / EMBEDDINGS,
        {"embeddings": np.stack([prompt.embedding for prompt in prompts])},
        {"prompts": json.dumps([prompt.id for prompt in prompts])},
    )


def _write_variants(path: Path, variants: Sequence[Variant]) -> None:
    rows = [{**variant.flat(), "variant": variant.id} for variant in variants]
    write_table(path, VARIANT_COLUMNS, rows)


def _check_written(folder: Path, records: PromptRecords) -> None:
    """Make sure that all is read as what it was."""
    advice = "which a table does not keep; change or remove it"
    try:
        read = read_prompt_records(folder, {variant.model for variant in records.variants})
    except BadInput as error:
        problem = error.problems[0]
        raise IngestError(
            f"The graph cannot be exported as {Path(problem.file).name}: {problem.reason}, {advice}."
        ) from None
    for was, now in zip(records.prompts, read.prompts, strict=True):
        if _facts(was) != _facts(now):
            raise IngestError(f"Prompt {was.text[:40]!r} is {_facts(was)!r}, {advice}.")
    for variant, again in zip(records.variants, read.variants, strict=True):
        if variant != again:
            raise IngestError(f"A variant is {variant!r}, {advice}.")
    if lost := set(records.scores) ^ set(read.scores):
        raise IngestError(f"A score is {lost.pop()!r}, {advice}.")


def _facts(prompt: Prompt) -> tuple[Any, ...]:
    kinds = {name: type(value) for name, value in prompt.properties.items()}
    return (
        prompt.text,
        prompt.split,
        prompt.probe,
        dict(prompt.properties),
        kinds,
        prompt.embedding.tolist(),
    )


def _files(folder: Path) -> Iterable[Path]:
    """The files of the folder that are of a prompt level."""
    yield from (folder / name for name in (PROMPTS, EMBEDDINGS, VARIANTS, SCORES) if (folder / name).exists())
    yield from (folder / TABLES).glob("*.csv")
