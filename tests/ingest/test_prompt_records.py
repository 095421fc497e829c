"""The prompt level of a graph, written as tables and loaded again, is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from matchgraph.cli.main import matchgraph
from matchgraph.drawing import Drawing
from matchgraph.graphdb.errors import MixedExtractors
from matchgraph.graphdb.models import Model
from matchgraph.graphdb.prompt_models import Prompt, Score, Variant, prompt_id
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.ingest.errors import BadInput, IngestError
from matchgraph.ingest.tables import prompt_records as files
from matchgraph.ingest.tables.export import write_records
from matchgraph.ingest.tables.prompt_export import prompt_records, write_prompt_records
from matchgraph.ingest.tables.prompt_records import PromptRecords, read_prompt_records
from matchgraph.ingest.tables.records import read_records, save_records
from tests.ingest.conftest import answer
from tests.ingest.dump import dump
from tests.ingest.records import HOSTILE

# What a table, a spreadsheet or a careless reader could change.
TEXTS = (
    "a red fox",
    "a sign that says \"no, thanks\", in 'neon'",
    "two\nlines, and\r\na third",
    "of old\rtoo",
    "\ta tab before, and a space behind ",
    "Ein Bär mit Hut, \u732b \U0001f408 \u0645\u0631\u062d\u0628\u0627",
    "=1+1",
    "007",
    "-",
    '"',
    HOSTILE,
    "never scored",
)
VARIANTS = (
    Variant("m@1", "m", Drawing(1), 0.1 + 0.2),
    Variant('m@20-DDIM-g7.5, "old"', "m", Drawing(20, 7.5, "DDIMScheduler", 256), 10.0),
    Variant(f"{HOSTILE}@50-cache3", HOSTILE, Drawing(50, resolution_px=1024, cache_interval=3), 1e-7),
    Variant("n@1-bf16", "n", Drawing(1, precision="bf16"), 0.25),
    Variant("n@1", "n", Drawing(1), 0.25),
    Variant("n-api", "n", None, 0.5, "USD"),
)
CLIP, OTHER = "78f51468e0451540", "0000000000000017"


def prompts() -> list[Prompt]:
    points = np.random.default_rng(0).normal(size=(len(TEXTS), 8))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    splits = ("train", "validation", "test")
    made = [Prompt(text, splits[row % 3], CLIP, points[row]) for row, text in enumerate(TEXTS)]
    # A property that not every prompt has.
    made[0] = replace(made[0], properties={"category": "animals", "words": 3, "ours": True})
    return made


def scores() -> list[Score]:
    """Partial scores: by one metric of two scorers and two numbers of images, and by another metric."""
    made, generator = [], np.random.default_rng(1)
    for row, text in enumerate(TEXTS[:-1]):
        for column, variant in enumerate(VARIANTS[:3]):
            if (row + column) % 4:
                value, std = (round(number, 5) for number in generator.uniform(0.1, 0.4, 2))
                made.append(Score(variant.id, prompt_id(text), "clip_score", value, 4, std, CLIP))
            if row % 2:
                made.append(
                    Score(variant.id, prompt_id(text), "sharpness", float(f"{row}e-05"), 1, None, "by hand")
                )
    half = replace(made[0], variant="n@1")
    made += [replace(half, samples=2), replace(half, prompt=prompt_id(TEXTS[3]), scorer=OTHER, std=0.0)]
    return made


@pytest.fixture
def level(graph: MatchingGraph, runner: Runner) -> PromptGraph:
    graph.save_models([Model(name, {"name": name}) for name in ("m", "n", HOSTILE)])
    own = PromptGraph(runner)
    own.save_prompts(prompts())
    own.save_variants(VARIANTS)
    own.save_scores(scores())
    return own


def test_the_graph_comes_back_as_it_was(
    graph: MatchingGraph, level: PromptGraph, runner: Runner, tmp_path: Path
) -> None:
    before, folder = dump(runner), tmp_path / "records"
    counts = write_records(graph, runner, folder)
    assert {name: rows for name, rows in counts.items() if rows and name != "models.csv"} == {
        "prompts.csv": 12,
        "prompts.safetensors": 12,
        "variants.csv": 6,
        "scores.csv": 4,
        "scores/clip_score.csv": 11,
        "scores/clip_score-2.csv": 1,
        "scores/clip_score-3.csv": 1,
        "scores/sharpness.csv": 5,
    }
    graph.clear()
    for _ in range(2):  # again is the same
        save_records(graph, runner, read_records(folder, graph.metric))
        assert dump(runner) == before
    assert level.metrics() == {"clip_score": 27, "sharpness": 15}
    again = tmp_path / "again"
    write_records(graph, runner, again)
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) == 15
    for path in written:
        assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes(), path.name
    assert not list(folder.rglob(".*"))


def test_commands_count_the_prompt_level(
    graph: MatchingGraph,
    level: PromptGraph,  # noqa: ARG001
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(matchgraph, arguments, env=dict(environment))

    folder = str(tmp_path / "records")
    assert answer(invoke("graph", "export", folder, "--json"))["prompts.csv"] == 12
    graph.clear()
    loaded = invoke("ingest", "records", folder, "--json")
    counts = answer(loaded)
    assert (counts["prompts"], counts["variants"], counts["scores"]) == (12, 6, 42)
    assert loaded.stderr.splitlines()[0] == "Reading records."
    assert loaded.stderr.splitlines()[1].startswith("Saving records: ")
    assert "12 prompts, 6 variants, 42 scores." in invoke("ingest", "records", folder).output
    (tmp_path / "records" / "scores" / "sharpness.csv").write_text("prompt,m@1\n", encoding="utf-8")
    refused = invoke("ingest", "records", folder)
    assert "sharpness.csv" in str(refused.exception)
    assert "--skip-bad" not in str(refused.exception)


def test_parts_of_a_prompt_level_are_enough(level: PromptGraph, tmp_path: Path) -> None:
    whole = prompt_records(level)
    for number, part in enumerate(
        [
            PromptRecords(),
            PromptRecords(variants=whole.variants),
            PromptRecords(prompts=whole.prompts),
            PromptRecords(whole.prompts, whole.variants),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert len(write_prompt_records(part, folder)) == len(list(folder.iterdir())) == number
        read = read_prompt_records(folder, {"m", "n", HOSTILE})
        assert [p.id for p in read.prompts] == [p.id for p in part.prompts]
        assert read.variants == part.variants


def test_files_of_another_export_do_not_stay_unsaid(level: PromptGraph, tmp_path: Path) -> None:
    whole = prompt_records(level)
    write_prompt_records(whole, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    sharp = tuple(score for score in whole.scores if score.metric == "sharpness")
    for part in (PromptRecords(), replace(whole, scores=sharp)):
        with pytest.raises(IngestError, match=r"of another export.*: delete it"):
            write_prompt_records(part, tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    write_prompt_records(whole, tmp_path)


def test_what_a_table_cannot_keep_is_refused_and_nothing_is_written(
    level: PromptGraph, tmp_path: Path
) -> None:
    whole = prompt_records(level)
    first, *others = whole.prompts
    unusual: list[tuple[PromptRecords, str]] = [
        (replace(whole, prompts=(replace(first, properties={"a": ["b"]}), *others)), "Prompt"),
        (replace(whole, prompts=(replace(first, properties={"year": "2024"}), *others)), "2024"),
        (replace(whole, variants=(*whole.variants, Variant("m@1__std", "m", Drawing(1), 1.0))), "m@1__std"),
        (replace(whole, variants=(*whole.variants, Variant("prompt", "m", Drawing(1), 1.0))), "prompt"),
        (replace(whole, variants=(*whole.variants, Variant(" spaced ", "m", Drawing(1), 1.0))), "spaced"),
        (replace(whole, variants=whole.variants[:1]), "A score is"),
    ]
    for records, message in unusual:
        with pytest.raises(IngestError, match=message):
            write_prompt_records(records, tmp_path)
        assert not list(tmp_path.iterdir())


def test_prompts_of_another_clip_are_refused_before_anything_is_saved(
    graph: MatchingGraph,
    level: PromptGraph,  # noqa: ARG001
    runner: Runner,
    tmp_path: Path,
) -> None:
    write_records(graph, runner, tmp_path)
    graph.clear()
    PromptGraph(runner).save_prompts([Prompt("other", "train", OTHER, np.eye(8)[0])])
    before = dump(runner)
    with pytest.raises(MixedExtractors, match="different probes"):
        save_records(graph, runner, read_records(tmp_path, graph.metric))
    assert dump(runner) == before


def folder_of(records: PromptRecords, tmp_path: Path) -> Path:
    write_prompt_records(records, tmp_path)
    return tmp_path


def small() -> PromptRecords:
    """Two prompts and two variants, all scored."""
    two = sorted(prompts()[:2], key=lambda prompt: prompt.id)
    pairs = [(variant.id, prompt.id) for prompt in two for variant in VARIANTS[:2]]
    values = (0.25, 0.5, 0.75, 1.0)
    scored = [Score(*pair, "taste", value, 4, 0.125, CLIP) for pair, value in zip(pairs, values, strict=True)]
    return PromptRecords(tuple(two), VARIANTS[:2], tuple(scored))


FOX = prompt_id(TEXTS[0])


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("prompts.csv", "a red fox", "a red dog", rf"prompts.csv:\d: id '{FOX}' is not .* 'a red dog'"),
        ("prompts.csv", "a red fox", "a red\x00fox", "is a binary file"),
        ("prompts.csv", "a red fox", " ", r"prompts.csv:\d: A prompt is blank"),
        ("prompts.csv", "train", "trial", r"prompts.csv:\d: split is 'trial'; write train, valid.* or test"),
        ("prompts.csv", CLIP, OTHER, rf"prompts.csv:3: probe is '{CLIP}' here and '{OTHER}' else"),
        ("prompts.csv", CLIP, "", r"prompts.csv:2: no probe"),
        ("variants.csv", "m@1,m", "m@1,k", r"variants.csv:2: model 'k' is not in the graph"),
        ("variants.csv", "m@1,m,1", "m@1,m,x", r"variants.csv:2: steps is 'x'"),
        ("variants.csv", "m@1,m,1", "m@1,m,", r"variants.csv:2: .*its number of steps is missing"),
        ("variants.csv", "m@1,m,1", f"m@1,m,{2**63}", r"variants.csv:2: steps is '92"),
        ("variants.csv", "0.30000000000000004", "-1", r"variants.csv:2: .*cost is -1: it must be above 0"),
        ("variants.csv", "0.30000000000000004", "cheap", r"variants.csv:2: cost: 'cheap' is not a number"),
        ("variants.csv", "7.5,256", "nan,256", r"variants.csv:3: guidance: value 'nan' is not finite"),
        ("scores.csv", "taste,", "Taste,", r"scores.csv:2: 'Taste' cannot name a metric"),
        ("scores.csv", ",4,", ",0,", r"scores.csv:2: samples is '0'"),
        ("scores.csv", CLIP, "", r"scores.csv:2: no scorer"),
        ("scores.csv", "taste.csv", "../prompts.csv", r"scores.csv:2: file is '../prompts.csv'"),
        ("scores.csv", "taste.csv", "test.csv", r"scores.csv:2: there is no scores/test.csv"),
        ("scores/taste.csv", FOX, "fox", r"taste.csv:\d: prompt 'fox' is not in prompts.csv"),
        (
            "scores/taste.csv",
            "m@1,m@1_",
            "m@7,m@7_",
            r"taste.csv:1: column 'm@7' is not a variant of variants",
        ),
        ("scores/taste.csv", "0.25,", "good,", r"taste.csv:2: column 'm@1': 'good' is not a number"),
        ("scores/taste.csv", "0.25,", "inf,", r"taste.csv:2: column 'm@1': value 'inf' is not finite"),
        ("scores/taste.csv", ",0.125", ",-0.125", r"taste.csv:2: .*std is -0.125: it cannot be negative"),
        ("scores/taste.csv", ",0.125", ",?", r"taste.csv:2: column 'm@1__std': '\?' is not a number"),
        ("scores/taste.csv", "0.25,", ",", r"column 'm@1__std' is 0.125 of a score that is empty"),
        ("scores/taste.csv", ",0.125\n", "\n", r"taste.csv:2: 4 values under 5 columns"),
    ],
)
def test_damage_is_told_by_file_line_and_value(
    tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    path = folder_of(small(), tmp_path) / file
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(BadInput, match=message) as caught:
        read_prompt_records(tmp_path, {"m"})
    # Where a table is called otherwise, that one is missing and its own is not listed.
    assert len(caught.value.problems) == (2 if old == "taste.csv" else 1)


def test_a_score_said_twice_is_refused(tmp_path: Path) -> None:
    folder = folder_of(small(), tmp_path)
    table = (folder / "scores" / "taste.csv").read_text(encoding="utf-8")
    (folder / "scores" / "taste-2.csv").write_text("".join(table.splitlines(True)[:2]), encoding="utf-8")
    with pytest.raises(BadInput, match=r"taste-2.csv: scores.csv does not list it"):
        read_prompt_records(folder, {"m"})
    with (folder / "scores.csv").open("a", encoding="utf-8") as index:
        index.write(f"taste,{OTHER},2,taste-2.csv\n")
    with pytest.raises(BadInput, match=r"taste-2.csv:2: taste of 'm@1' on '\w+' is in another table already"):
        read_prompt_records(folder, {"m"})
    (folder / "scores" / "taste.csv").write_text(table + table.splitlines(True)[1], encoding="utf-8")
    with pytest.raises(BadInput, match=r"taste.csv:4: prompt '\w+' is in line 2 already"):
        read_prompt_records(folder, {"m"})


def change_embeddings(change: Callable[[np.ndarray, list[str]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        own = sorted(prompt_id(text) for text in TEXTS[:2])
        embeddings = load_file(folder / files.EMBEDDINGS)["embeddings"]
        tensor = change(embeddings, own)
        tensor = embeddings if tensor is None else tensor
        save_file({"embeddings": tensor}, folder / files.EMBEDDINGS, metadata={"prompts": json.dumps(own)})

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / files.EMBEDDINGS).unlink(), "there is prompts.csv and no prompts.saf"),
        (lambda folder: (folder / files.PROMPTS).unlink(), "there is prompts.safetensors and no prompts.csv"),
        (lambda folder: (folder / files.VARIANTS).unlink(), "there is scores.csv and no variants.csv"),
        (lambda folder: (folder / files.SCORES).unlink(), "taste.csv: there is no scores.csv that lists it"),
        (lambda folder: (folder / files.EMBEDDINGS).write_bytes(b"{}"), "holds no usable embeddings"),
        (change_embeddings(lambda tensor, _: tensor.astype(np.float64)), "are float64"),
        (change_embeddings(lambda tensor, _: tensor[:1]), "holds no usable embeddings"),
        (change_embeddings(lambda tensor, _: tensor * 2), r"prompts.csv:2: .*not of length 1"),
        (change_embeddings(lambda _, own: own.__setitem__(0, "x")), "an embedding of prompt 'x', which"),
        (change_embeddings(lambda _, own: own.__setitem__(0, "x")), r"prompts.csv:2: prompt .* has no embed"),
    ],
)
def test_files_that_do_not_belong_together_are_told(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder_of(small(), tmp_path))
    with pytest.raises(BadInput, match=message):
        read_prompt_records(tmp_path, {"m"})


def test_rows_and_columns_may_change_their_order(tmp_path: Path) -> None:
    folder = folder_of(small(), tmp_path)
    before = read_prompt_records(folder, {"m"})
    for name in ("prompts.csv", "variants.csv"):
        header, *rows = (folder / name).read_text(encoding="utf-8").splitlines(True)
        (folder / name).write_text(header + "".join(reversed(rows)), encoding="utf-8")
    after = read_prompt_records(folder, {"m"})
    assert set(after.scores) == set(before.scores)
    assert [p.embedding.tolist() for p in reversed(after.prompts)] == [
        p.embedding.tolist() for p in before.prompts
    ]
