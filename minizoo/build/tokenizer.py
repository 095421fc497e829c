"""A CLIP-style byte-pair tokenizer for icon captions, readable by open_clip and by transformers alike.

One list of merges serves both: open_clip's `SimpleTokenizer` reads it gzipped, transformers' `CLIPTokenizer`
reads `vocab.json` and `merges.txt`. Both pad with token 0, as open_clip does, so token ids agree row by row.
"""

from __future__ import annotations

import collections
import gzip
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer
    from transformers import CLIPTokenizer

CONTEXT_LENGTH = 16  # tokens, start and end included
MERGES = 1000
MERGES_FILE = "bpe_merges.txt.gz"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
START, END = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"


def _byte_alphabet() -> list[str]:
    from open_clip.tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())


def train_merges(captions: Iterable[str], count: int = MERGES) -> list[tuple[str, str]]:
    """Learn byte-pair merges.

    Args:
        captions: the training text.
        count: how many merges to learn at most.

    Returns:
        Merges, most frequent first; ties go to the pair that sorts first, so the result is deterministic.

    Source:
        Sennrich, Haddow, Birch (2016), "Neural Machine Translation of Rare Words with Subword Units",
        Algorithm 1.
    """
    import regex

    pattern = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
    from open_clip.tokenizer import bytes_to_unicode

    encoder = bytes_to_unicode()
    frequency: collections.Counter[tuple[str, ...]] = collections.Counter()
    for caption in captions:
        for word in pattern.findall(caption.lower()):
            symbols = [encoder[byte] for byte in word.encode("utf-8")]
            frequency[(*symbols[:-1], symbols[-1] + _END_OF_WORD)] += 1
    words, times = list(frequency), list(frequency.values())
    pairs: collections.Counter[tuple[str, str]] = collections.Counter()
    # The words that hold a pair, so that a merge touches no others.
    holders: collections.defaultdict[tuple[str, str], set[int]] = collections.defaultdict(set)

    def count_pairs(number: int, sign: int) -> None:
        for pair in itertools.pairwise(words[number]):
            pairs[pair] += sign * times[number]
            holders[pair].add(number)
            if not pairs[pair]:
                del pairs[pair]

    for number in range(len(words)):
        count_pairs(number, 1)
    merges: list[tuple[str, str]] = []
    while len(merges) < count and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for number in holders.pop(best):
            count_pairs(number, -1)
            words[number] = _merged(words[number], best)
            count_pairs(number, 1)
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    index = 0
    while index < len(word):
        if word[index : index + 2] == pair:
            out.append(word[index] + word[index + 1])
            index += 2
        else:
            out.append(word[index])
            index += 1
    return tuple(out)


def write_tokenizer(merges: list[tuple[str, str]], folder: Path) -> None:
    """Write one list of merges in both libraries' layouts.

    Args:
        merges: as `train_merges` gives them.
        folder: created if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = "#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges)
    # mtime=0: the same merges always give the same bytes.
    (folder / MERGES_FILE).write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
    alphabet = _byte_alphabet()
    vocabulary = [
        *alphabet,
        *(letter + _END_OF_WORD for letter in alphabet),
        *map("".join, merges),
        START,
        END,
    ]
    (folder / "vocab.json").write_text(
        json.dumps({token: index for index, token in enumerate(vocabulary)}, ensure_ascii=False),
        encoding="utf-8",
    )
    (folder / "merges.txt").write_text(text + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT_LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": vocabulary[0],
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    special = {key: value for key, value in settings.items() if key.endswith("_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")


def open_clip_tokenizer(folder: Path) -> SimpleTokenizer:
    """Load the merges into open_clip's own tokenizer.

    Args:
        folder: a folder that `write_tokenizer` wrote.

    Returns:
        A callable: captions -> int64 tensor (n, 16).
    """
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(folder / MERGES_FILE), context_length=CONTEXT_LENGTH)


def transformers_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load the merges into transformers' own tokenizer.

    Args:
        folder: a folder that `write_tokenizer` wrote.

    Returns:
        The tokenizer that the pipelines carry.
    """
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
