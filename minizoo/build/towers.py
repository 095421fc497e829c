"""The ten models' text encoders: their CLIP, and a T5, a Gemma 2 and a ChatGLM.

Pipelines of some classes cannot do without the last two: Kolors reads ChatGLM's states in its own order, Sana
hands its language model an instruction before each prompt. Each is made small, has a tokenizer of its own
class, and is taught what captions look like by the CLIP: the state of a caption's end is drawn to the CLIP's
embedding of the same caption. The two language models learn to continue captions besides.
`python -m matchgraph.minizoo.build.towers NAME` trains one; `clip` comes first.
"""

from __future__ import annotations

import argparse
import collections
import inspect
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matchgraph.minizoo.build.autoencoders import SHARED
from matchgraph.minizoo.build.clip import load_open_clip, save_clip, train_clip
from matchgraph.minizoo.build.corpus import corpus
from matchgraph.minizoo.build.errors import StageNotReady
from matchgraph.minizoo.build.icons import WORK, Pool
from matchgraph.minizoo.build.loop import LoopConfig, averaged_weights, train
from matchgraph.minizoo.build.tokenizer import (
    CONTEXT_LENGTH,
    open_clip_tokenizer,
    train_merges,
    write_tokenizer,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

Tower = Literal["t5", "gemma", "glm"]
CLIP_FOLDER = SHARED / "clip"
CLIP_CONFIG = LoopConfig(
    "zoo-clip",
    steps=2500,
    batch_size=128,
    learning_rate=1e-3,
    weight_decay=0.1,
    ema_decay=0.99,
    checkpoint_every=100,
)
WIDTH = 128
PIECES = 1000
TEMPERATURE = 0.05
LANGUAGE_WEIGHT = 0.2
CONFIGS: dict[Tower, LoopConfig] = {
    name: LoopConfig(
        f"text-{name}", steps=800, batch_size=128, learning_rate=1e-3, weight_decay=0.05, ema_decay=0.99
    )
    for name in ("t5", "gemma", "glm")
}


def sana_instruction() -> list[str]:
    """The lines that Sana's pipeline puts before a prompt."""
    from diffusers import SanaPipeline

    return inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


def _sentencepiece(captions: Sequence[str], folder: Path) -> Path:
    import sentencepiece

    file = folder / "tokenizer.model"
    folder.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(captions),
            model_writer=model,
            model_type="bpe",
            vocab_size=PIECES,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
        )
    return file


def new_tokenizer(name: Tower, captions: Sequence[str], folder: Path) -> Any:
    """Train a tokenizer of the tower's own class on captions.

    Args:
        name: which tower.
        captions: the training text.
        folder: a scratch folder for the files that it is made of.

    Returns:
        A tokenizer of 16 tokens with specials.
    """
    if name == "glm":
        from diffusers.pipelines.kolors import ChatGLMTokenizer

        return ChatGLMTokenizer(str(_sentencepiece(captions, folder)), model_max_length=CONTEXT_LENGTH)
    if name == "t5":
        import sentencepiece
        from transformers import T5Tokenizer

        model = sentencepiece.SentencePieceProcessor(model_file=str(_sentencepiece(captions, folder)))
        # Pieces of the byte-pair model with their own frequencies: its unigram sibling prunes whole words
        # of so small a text.
        counts = collections.Counter(
            piece for caption in captions for piece in model.encode_as_pieces(caption)
        )
        total = sum(counts.values())
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
        for number in range(3, model.get_piece_size()):
            piece = model.id_to_piece(number)
            pieces.append((piece, math.log(max(counts[piece], 0.1) / total)))
        return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=CONTEXT_LENGTH)
    from transformers import GemmaTokenizer

    vocabulary, merges = _byte_pairs(captions)
    tokenizer = GemmaTokenizer(
        vocab=vocabulary, merges=merges, add_bos_token=True, model_max_length=CONTEXT_LENGTH
    )
    # One token a line, so that 1,057 characters of instruction do not make a tiny model's prompts long.
    tokenizer.add_tokens([*sana_instruction(), "\n"])
    tokenizer.padding_side = "right"  # as Sana's pipeline sets it
    return tokenizer


def _byte_pairs(captions: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair merges over words that begin with their space, as Gemma's do: (piece -> number, merges)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    # Gemma's own marks spaces and adds none in front.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Punctuation()]
    )
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES + len(specials), special_tokens=specials, show_progress=False
    )
    learner.train_from_iterator(captions, trainer)
    model = json.loads(learner.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def new_tower(name: Tower, vocabulary: int, seed: int) -> Any:
    """Make an untrained tower of about 0.6 million parameters.

    Args:
        name: which tower.
        vocabulary: how many tokens its tokenizer has.
        seed: of the initial weights.
    """
    import torch

    torch.manual_seed(seed)
    if name == "t5":
        from transformers import T5Config, T5EncoderModel

        return T5EncoderModel(
            T5Config(
                vocab_size=vocabulary,
                d_model=WIDTH,
                d_kv=32,
                d_ff=288,
                num_layers=3,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                relative_attention_num_buckets=8,
                relative_attention_max_distance=16,
            )
        )
    if name == "gemma":
        from transformers import Gemma2Config, Gemma2Model

        return Gemma2Model(
            Gemma2Config(
                vocab_size=vocabulary,
                hidden_size=WIDTH,
                intermediate_size=288,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
                max_position_embeddings=128,
                query_pre_attn_scalar=32,
                sliding_window=128,
                pad_token_id=0,
                eos_token_id=1,
                bos_token_id=2,
                attn_implementation="eager",
            )
        )
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

    model = ChatGLMModel(
        ChatGLMConfig(
            num_layers=3,
            padded_vocab_size=vocabulary,
            hidden_size=WIDTH,
            ffn_hidden_size=288,
            kv_channels=32,
            num_attention_heads=4,
            seq_length=64,
            multi_query_attention=True,
            multi_query_group_num=2,
            add_qkv_bias=True,
            original_rope=True,
        )
    )
    # The class leaves its memory as it finds it, since real weights always follow.
    for parameter_name, parameter in model.named_parameters():
        if "layernorm" in parameter_name:
            torch.nn.init.ones_(parameter)
        elif parameter_name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def _states(name: Tower, tower: nn.Module, tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """States of all tokens for the language objective, (n, tokens, width), and of the caption's end."""
    import torch

    if name == "glm":
        out = tower(**tokens, output_hidden_states=True)
        # Padded on the left, and pooled by the pipeline before the last norm.
        return out.last_hidden_state.transpose(0, 1), out.hidden_states[-1][-1]
    out = tower(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    last = tokens["attention_mask"].sum(1) - 1
    states = out.last_hidden_state
    return states, states[torch.arange(len(states)), last]


def train_tower(name: Tower, pool: Pool) -> tuple[Any, Any]:
    """Train a tower on the corpus's captions.

    Args:
        name: which tower.
        pool: the corpus.

    Returns:
        The tower with averaged weights, and its tokenizer.

    Raises:
        StageNotReady: the CLIP is not trained yet.
    """
    import torch
    import torch.nn.functional as F

    config = CONFIGS[name]
    captions = sorted({icon.caption for icon in pool.icons})
    tokenizer = new_tokenizer(name, [icon.caption for icon in pool.icons], WORK / "tokenizers" / name)
    clip = load_open_clip(CLIP_FOLDER)
    with torch.no_grad():
        goal = clip.encode_text(open_clip_tokenizer(CLIP_FOLDER)(captions), normalize=True)
    instruction = "\n".join(sana_instruction())
    before = len(tokenizer.encode(instruction)) if name == "gemma" else 0
    readings = [("", CONTEXT_LENGTH)]
    if name == "gemma":
        readings.append((instruction, before + CONTEXT_LENGTH - 2))
    tokens = [
        dict(
            tokenizer(
                [prefix + caption for caption in captions],
                padding="max_length",
                max_length=length,
                truncation=True,
                return_tensors="pt",
            )
        )
        for prefix, length in readings
    ]
    tower = new_tower(name, vocabulary_size(name, tokenizer), config.seed)
    torch.manual_seed(config.seed)
    learner = torch.nn.ModuleDict({"tower": tower, "projection": torch.nn.Linear(WIDTH, goal.shape[1])})

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randperm(len(captions), generator=generator)[: config.batch_size]
        reading = {key: value[rows] for key, value in tokens[step % len(tokens)].items()}
        states, end = _states(name, tower, reading)
        embedded = F.normalize(learner["projection"](end), dim=1)
        logits = embedded @ goal[rows].T / TEMPERATURE
        alignment = (
            F.cross_entropy(logits, torch.arange(len(rows))) + (1 - (embedded * goal[rows]).sum(1)).mean()
        )
        language = torch.zeros(())
        if name != "t5":
            table = tower.get_input_embeddings().weight
            following = reading["input_ids"][:, 1:].masked_fill(reading["attention_mask"][:, 1:] == 0, -100)
            scores = states[:, :-1] @ table.T
            language = F.cross_entropy(scores.flatten(0, 1), following.flatten(), ignore_index=-100)
        loss = alignment + LANGUAGE_WEIGHT * language
        return {"loss": loss, "alignment": alignment.detach(), "language": language.detach()}

    train(config, learner, losses)
    return tower, tokenizer


def vocabulary_size(name: Tower, tokenizer: Any) -> int:
    """How many rows the tower's table of tokens needs."""
    # ChatGLM's tokenizer counts its commands among its words.
    return tokenizer.vocab_size if name == "glm" else len(tokenizer)


def save_tower(name: Tower, pool: Pool, root: Path = SHARED) -> dict[str, Any]:
    """Write a tower and its tokenizer, in half precision, from its newest checkpoint.

    Args:
        name: which tower.
        pool: the corpus.
        root: gets the folders `text-<name>` and `tokenizer-<name>`.

    Returns:
        Steps, seconds and parameters.
    """
    import torch

    config = CONFIGS[name]
    step, seconds, weights = averaged_weights(config.name)
    tokenizer = new_tokenizer(name, [icon.caption for icon in pool.icons], WORK / "tokenizers" / name)
    tower = new_tower(name, vocabulary_size(name, tokenizer), config.seed)
    own = {key.removeprefix("tower."): value for key, value in weights.items() if key.startswith("tower.")}
    missing = (
        set(tower.load_state_dict(own, strict=False).missing_keys) & dict(tower.named_parameters()).keys()
    )
    if missing:
        raise StageNotReady(f"the checkpoint of {config.name} is of another shape; take it away")
    tower.to(torch.float16).save_pretrained(root / config.name, safe_serialization=True)
    tokenizer.save_pretrained(root / f"tokenizer-{name}")
    measured = {"steps": step, "seconds": seconds, "parameters": sum(p.numel() for p in tower.parameters())}
    (WORK / f"{config.name}.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured


def load_tower(name: Tower, root: Path = SHARED) -> tuple[Any, Any]:
    """Load a tower in single precision, and its tokenizer.

    Args:
        name: which tower.
        root: holds the folders that `save_tower` writes.

    Raises:
        StageNotReady: it was not trained yet.
    """
    folder = root / CONFIGS[name].name
    if not (folder / "config.json").is_file():
        raise StageNotReady(
            f"no text encoder in {folder.name}: run `python -m matchgraph.minizoo.build.towers {name}` first"
        )
    if name == "t5":
        from transformers import T5EncoderModel as Model
        from transformers import T5Tokenizer as Tokenizer
    elif name == "gemma":
        from transformers import Gemma2Model as Model
        from transformers import GemmaTokenizer as Tokenizer
    else:
        from diffusers.pipelines.kolors import ChatGLMModel as Model
        from diffusers.pipelines.kolors import ChatGLMTokenizer as Tokenizer
    tower = Model.from_pretrained(folder, local_files_only=True).float().eval()
    return tower, Tokenizer.from_pretrained(root / f"tokenizer-{name}", local_files_only=True)


def build_clip(pool: Pool, folder: Path = CLIP_FOLDER) -> dict[str, float]:
    """Train the ten models' CLIP with a tokenizer of its own, and save it.

    Args:
        pool: the corpus.
        folder: gets both, in open_clip's layout.

    Returns:
        What `minizoo.build.clip.retrieval` measures.
    """
    captions = [caption for icon in pool.icons for caption in (icon.caption, icon.styled_caption)]
    write_tokenizer(train_merges(captions), folder)
    train_clip(pool, CLIP_CONFIG, folder)
    return save_clip(pool, folder, CLIP_CONFIG)


def main() -> None:
    """Train a text encoder and save it."""
    parser = argparse.ArgumentParser(description="Train a text encoder of the ten models.")
    parser.add_argument("name", choices=["clip", *sorted(CONFIGS)])
    name = parser.parse_args().name
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pool = corpus()
    if name == "clip":
        logger.info("%s", build_clip(pool))
        return
    train_tower(name, pool)
    logger.info("%s", save_tower(name, pool))


if __name__ == "__main__":
    main()
