"""Embeddings out of files, what of them cannot be used, and how an encoder is told apart from another."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from matchgraph.graphdb.prompt_models import Prompt
from matchgraph.routing.encoders import load_encoder, read_embeddings
from matchgraph.routing.errors import BadEmbeddingFile, UnknownPrompt

TEXTS = ["a cat", "a dog, wet", "ein Haus"]
VECTORS = np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
UNIT = np.array([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]])


def graph(*prompts: Prompt) -> Any:
    return SimpleNamespace(prompts=lambda: list(prompts))


def known(text: str, embedding: list[float], probe: str = "given-2") -> Prompt:
    return Prompt(text, "train", probe, np.array(embedding))


def written(folder: Path, kind: str) -> Path:
    path = folder / f"vectors.{kind}"
    frame = pd.DataFrame({"prompt": TEXTS, "embedding": VECTORS.tolist()})
    match kind:
        case "npy":
            np.save(path, VECTORS)
            path.with_suffix(".txt").write_text("\n".join(TEXTS), encoding="utf-8")
        case "parquet":
            frame.to_parquet(path)
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case "csv":
            frame.assign(embedding=[json.dumps(row) for row in VECTORS.tolist()]).to_csv(path, index=False)
        case "wide.csv":
            pd.DataFrame({"text": TEXTS, "d0": VECTORS[:, 0], "d1": VECTORS[:, 1]}).to_csv(path, index=False)
        case "wide.parquet":
            columns = {"text": TEXTS, "d0": VECTORS[:, 0].astype(int), "d1": VECTORS[:, 1].astype("float32")}
            pd.DataFrame(columns).to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["npy", "parquet", "jsonl", "csv", "wide.csv", "wide.parquet"])
def test_every_format_reads_alike(kind: str, tmp_path: Path) -> None:
    encoder = load_encoder(str(written(tmp_path, kind)), graph())
    found = encoder.encode([TEXTS[2], TEXTS[0]])
    assert found.embeddings == pytest.approx(UNIT[[2, 0]])
    assert (encoder.hash, found.tokens) == ("given-2", None)
    with pytest.raises(UnknownPrompt, match="no embedding of 'a bird'"):
        encoder.encode(["a cat", "a bird"])


def test_a_file_of_another_encoder_is_refused_by_the_prompts_that_both_have(tmp_path: Path) -> None:
    path = str(written(tmp_path, "csv"))
    same, strange = known("a cat", [0.6, 0.8]), known("a bird", [0.0, 1.0])
    assert load_encoder(path, graph(same, strange)).hash == "given-2"
    with pytest.raises(BadEmbeddingFile, match="of 'a cat' is not the one in the graph"):
        load_encoder(path, graph(known("a cat", [0.8, 0.6]), strange))
    with pytest.raises(BadEmbeddingFile, match="none of the graph's prompts"):
        load_encoder(path, graph(strange))
    # Of prompts that something else embedded nothing is said here: their hash differs.
    assert load_encoder(path, graph(known("a bird", [0.0, 1.0], "0" * 16))).hash == "given-2"


@pytest.mark.parametrize("header", [",text,d0,d1", "id,text,d0,d1", "Unnamed: 0,text,d0,d1"])
def test_numbers_of_rows_are_no_dimension(header: str, tmp_path: Path) -> None:
    rows = [f"{number},a {number},{x},{y}" for number, (x, y) in enumerate(VECTORS)]
    (tmp_path / "vectors.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    encoder = load_encoder(str(tmp_path / "vectors.csv"), graph())
    assert encoder.encode(["a 0", "a 1", "a 2"]).embeddings == pytest.approx(UNIT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words,embedding\na cat,[1]\n", "has no column prompt"),
        ("prompt,kind,d0\na cat,easy,1\n", "has no column embedding"),
        ('prompt,embedding\na cat,"[1, 2]"\na dog,[1]\n', "row 2: the embedding has 1 numbers, not 2"),
        ("prompt,embedding\na cat,[]\n", "row 1: the embedding has 0 numbers"),
        ("prompt,embedding\na cat,one\n", "row 1: the embedding is not a list of numbers"),
        ('prompt,embedding\na cat,"[0, 0]"\n', "row 1: the embedding is 0 or not finite"),
        ('prompt,embedding\na cat,"[NaN, 1]"\n', "row 1: the embedding is 0 or not finite"),
        ("prompt,embedding\n", "has no rows"),
        (
            'prompt,embedding\na cat,"[1, 2]"\na dog,"[2, 1]"\na cat,"[2, 4]"\na cat,"[1, 3]"\n',
            "rows 1 and 4: 'a cat' has two embeddings",
        ),
    ],
)
def test_what_cannot_be_used_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadEmbeddingFile) as caught:
        read_embeddings(path)
    assert message in str(caught.value)


def test_columns_of_numbers_do_not_become_objects(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "vectors.parquet"
    frame = pd.DataFrame(rng.normal(size=(2000, 256))).add_prefix("d")
    frame.insert(0, "prompt", [f"a {number}" for number in range(2000)])
    frame.to_parquet(path)
    tracemalloc.start()
    try:
        read_embeddings(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The frame, the vectors, and those of length 1.
    assert peak < 3.5 * frame.memory_usage().sum()


def test_an_array_needs_its_prompts_beside_it(tmp_path: Path) -> None:
    path = written(tmp_path, "npy")
    path.with_suffix(".txt").write_text("a cat", encoding="utf-8")
    with pytest.raises(BadEmbeddingFile, match=r"has 3 rows, but vectors\.txt 1 prompts"):
        read_embeddings(path)
    path.with_suffix(".txt").unlink()
    with pytest.raises(BadEmbeddingFile, match=r"vectors\.txt, with one prompt per row"):
        read_embeddings(path)
