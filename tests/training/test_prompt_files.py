"""Prompts from the files that people have them in."""

from __future__ import annotations

from pathlib import Path

import pytest

from matchgraph.training.errors import BadPromptFile
from matchgraph.training.prompt_files import read_prompt_file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "\ufeffa cat\n\n  a dog, red \na cat\n"),
        ("p.jsonl", '{"prompt": "a cat"}\n{"prompt": " a dog, red"}\n{"prompt": ""}'),
        ("p.txt", '{"text": "a cat"}\n{"text": "a dog, red"}'),
        ("p.jsonl", '"a cat"\n"a dog, red"'),
        ("p.json", '["a cat", "a dog, red"]'),
        ("p.json", '[{"caption": "a cat"}, {"caption": "a dog, red"}]'),
        ("p.csv", 'prompt\na cat\n"a dog, red"\n'),
        ("p.tsv", "Prompt\na cat\na dog, red\n"),
    ],
)
def test_every_kind_of_file_gives_the_prompts(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_prompt_file(tmp_path / name).texts == ["a cat", "a dog, red"]


def test_fields_that_are_not_read_are_named_and_lines_counted(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("id,prompt,text\n\n1,a cat,x\n")
    found = read_prompt_file(tmp_path / "p.csv")
    assert found.lines == ((3, "a cat"),)
    assert found.notes == ("p.csv: not read: 'id', 'text'",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", b"a cat\na dog\n", "has no prompt, text or caption; it has 'a cat'"),
        ("p.csv", b"prompt\na dog, red\n", "line 2: 2 values under 1 columns"),
        ("p.jsonl", b'{"words": "a"}', "it has 'words'. Name the field"),
        ("p.jsonl", b'{"prompt": "a"}\n{', "line 2: is not JSON"),
        ("p.jsonl", b'{"prompt": ["a"]}', "line 1: the prompt must be text"),
        ("p.json", b'{"a": 1}', "holds no list"),
        ("p.txt", b"\xe9t\xe9", "not text in UTF-8"),
        ("p.parquet", b"PAR1", "is a Parquet file, not prompts"),
        ("p.xlsx", b"PK\x03\x04", "is a spreadsheet, not prompts"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadPromptFile, match=said):
        read_prompt_file(tmp_path / name)
