"""Prompts in the chats that language models read them in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Stands for a prompt to see what the chat template puts behind it.
MARK = "prompt"


def in_chat(tokenizer: Any, prompts: Sequence[str], *, thinking: bool) -> list[str]:
    """Prompts as a Qwen3 tokenizer's chat template has them, each asked by a user.

    Args:
        tokenizer: with a chat template.
        prompts: in any number.
        thinking: whether the answer may begin with thoughts.
    """
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        for prompt in prompts
    ]


def tokens_behind(tokenizer: Any, *, thinking: bool) -> int:
    """How many tokens the template puts behind a prompt, which are the first to be cut off."""
    behind = in_chat(tokenizer, [MARK], thinking=thinking)[0].rpartition(MARK)[2]
    return len(tokenizer(behind).input_ids)
