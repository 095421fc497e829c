"""One list of merges, two libraries, the same token ids."""

from __future__ import annotations

import json

import torch

from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.corpus import recorded_corpus
from matchgraph.minizoo.build.datasets import DATASETS
from matchgraph.minizoo.build.icons import Icon
from matchgraph.minizoo.build.tokenizer import (
    CONTEXT_LENGTH,
    open_clip_tokenizer,
    train_merges,
    transformers_tokenizer,
    write_tokenizer,
)

CLIP = ROOT / "probes" / "clip"
ODD_CAPTIONS = [
    "",
    "  Two   spaces and CAPITALS ",
    "it's 24 o'clock, smörgåsbord & ½ ☃",
    "a word thatneverappearedbefore",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen",
]


def captions() -> list[str]:
    found = set(ODD_CAPTIONS)
    for style, category, name in recorded_corpus():
        icon = Icon(style, category, name, "")
        found |= {icon.caption, icon.styled_caption}
    for path in DATASETS.glob("*/metadata.jsonl"):
        found |= {json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()}
    return sorted(found)


def transformers_ids(tokenizer, texts: list[str]) -> torch.Tensor:
    return tokenizer(
        texts, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def test_both_libraries_give_the_same_ids() -> None:
    texts = captions()
    assert len(texts) > 2000
    ours, theirs = open_clip_tokenizer(CLIP)(texts), transformers_ids(transformers_tokenizer(CLIP), texts)
    assert ours.shape == (len(texts), CONTEXT_LENGTH)
    assert torch.equal(ours, theirs)


def test_open_clip_reads_the_tokenizer_beside_the_weights() -> None:
    import open_clip

    texts = captions()[:200]
    tokenizer = open_clip.get_tokenizer(f"local-dir:{CLIP}")
    assert tokenizer.context_length == CONTEXT_LENGTH
    assert torch.equal(tokenizer(texts), open_clip_tokenizer(CLIP)(texts))


def test_the_most_frequent_pair_is_merged_first() -> None:
    assert train_merges(["abab abab", "ab"], count=2) == [("a", "b</w>"), ("a", "b")]


def test_merges_are_written_the_same_twice(tmp_path) -> None:
    for folder in ("one", "two"):
        write_tokenizer(train_merges(["red apple", "green apple"], count=8), tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (
        transformers_tokenizer(tmp_path / "one")
        .decode(transformers_tokenizer(tmp_path / "one")("red apple").input_ids, skip_special_tokens=True)
        .strip()
        == "red apple"
    )
