"""Draw images for prompts with every candidate, score them, and keep the scores: the router's training data.

What is scored is kept in the graph batch by batch, and what is there is not drawn again: a run that was
interrupted draws at most one batch again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matchgraph.graphdb.prompt_models import Prompt, Score, Variant
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.progress import OnWork, Pace, Progress, Work, no_work
from matchgraph.routing.variants import by_pipeline

if TYPE_CHECKING:
    from PIL import Image

    from matchgraph.training.measure.quality import Scorer

# CATImage, section 5.2.
SAMPLES = 4
# Images drawn at a time, at least those of one prompt.
BATCH = 32


def score_variants(
    graph: PromptGraph,
    folders: Mapping[str, Path],
    scorers: Sequence[Scorer],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    variants: Sequence[Variant] | None = None,
    device: str = "auto",
    gpu_memory: float | None = None,
    on_progress: Progress = lambda *_: None,
    on_work: OnWork = no_work,
) -> int:
    """Score every prompt of the graph with every variant, as far as it is not scored yet.

    An image's noise follows from the seed, its prompt and its place among the prompt's images, so all
    variants of a model start from the same noise, as in the paper.

    Args:
        graph: prompts and variants; gets the scores.
        folders: of the models' pipelines.
        scorers: at least one.
        samples: images for each prompt, S.
        seed: of the noise.
        variants: which; all by default.
        device: `auto` or a torch device name.
        gpu_memory: GiB of the GPU to stay within; by default what is free.
        on_progress: called after each batch.
        on_work: called with what there is to draw.

    Returns:
        How many images were drawn.

    Source:
        CATImage, section 3.2 (the mean over S images stands for the expectation) and 5.2 (S = 4).
    """
    from matchgraph.training.config import SampleConfig
    from matchgraph.training.memory.drawing import opened_to_draw
    from matchgraph.training.sampling.generate import stream_images

    prompts = graph.prompts()
    drawn = 0
    chosen = graph.variants() if variants is None else variants
    lacking = {variant.id: _lacking(graph, variant, prompts, scorers, samples) for variant in chosen}
    images = {variant.id: samples * len(lacking[variant.id]) for variant in chosen}
    cost = sum(images[variant.id] * variant.cost for variant in chosen)
    pace = Pace(Work(sum(images.values()), cost), on_work)
    for own in by_pipeline(chosen):
        if not any(images[variant.id] for variant in own):
            continue
        with opened_to_draw(
            folders[own[0].model],
            device=device,
            resolution_px=max(variant.require_drawing().resolution_px for variant in own),
            batch_size=BATCH,
            precision=own[0].require_drawing().precision,
            gpu_memory=gpu_memory,
        ) as loaded:
            for variant in own:
                wanted = lacking[variant.id]
                together = max(1, BATCH // samples)
                for start in range(0, len(wanted), together):
                    chunk = wanted[start : start + together]
                    texts = [prompt.text for prompt in chunk for _ in range(samples)]
                    config = SampleConfig(len(texts), variant.require_drawing(), seed, BATCH)
                    numbers = [image_number(prompt, place) for prompt in chunk for place in range(samples)]
                    pictures = list(stream_images(loaded, None, texts, config, numbers=numbers))
                    graph.save_scores(scores_of(variant, chunk, texts, pictures, scorers))
                    drawn += len(pictures)
                    pace.drew(len(pictures), len(pictures) * variant.cost)
                    done = len(prompts) - len(wanted) + start + len(chunk)
                    on_progress(variant.id, done, len(prompts))
    return drawn


def image_number(prompt: Prompt, place: int) -> str:
    """What, with the seed, decides the noise of a prompt's image."""
    return f"{prompt.id}-{place}"


def scores_of(
    variant: Variant,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    images: Sequence[Image.Image],
    scorers: Sequence[Scorer],
) -> list[Score]:
    """Score images, and average over those of a prompt.

    Args:
        variant: what drew them.
        prompts: n of them.
        texts: of each image, as many for every prompt, together.
        images: as many.
        scorers: what scores.
    """
    found = []
    for scorer in scorers:
        values = scorer.score(texts, images).reshape(len(prompts), -1)
        count = values.shape[1]
        spread = values.std(axis=1, ddof=1) if count > 1 else np.full(len(prompts), np.nan)
        for prompt, mean, std in zip(prompts, values.mean(axis=1), spread, strict=True):
            deviation = None if np.isnan(std) else float(std)
            found.append(
                Score(variant.id, prompt.id, scorer.metric, float(mean), count, deviation, scorer.hash)
            )
    return found


def _lacking(
    graph: PromptGraph,
    variant: Variant,
    prompts: Sequence[Prompt],
    scorers: Sequence[Any],
    samples: int,
) -> list[Prompt]:
    """The prompts that some scorer has not scored."""
    done = set.intersection(
        *(graph.scored(variant.id, scorer.metric, scorer.hash, samples) for scorer in scorers)
    )
    return [prompt for prompt in prompts if prompt.id not in done]
