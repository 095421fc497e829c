"""Draw prompts with the candidates they were routed to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.graphdb.prompt_models import prompt_id
from matchgraph.progress import OnWork, Pace, Work, no_work
from matchgraph.routing.variants import by_pipeline

if TYPE_CHECKING:
    from matchgraph.graphdb.prompt_models import Unit, Variant
    from matchgraph.routing.router import Decision

# Images drawn at a time.
BATCH = 32


@dataclass(frozen=True)
class Drawn:
    """An image that was drawn.

    Attributes:
        path: of the PNG.
        prompt: of it.
        variant: id of the candidate that drew it.
        cost: of the image.
        unit: of the cost.
    """

    path: Path
    prompt: str
    variant: str
    cost: float
    unit: Unit


def draw(
    prompts: Sequence[str],
    decisions: Sequence[Decision],
    variants: Sequence[Variant],
    folders: Mapping[str, Path],
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    gpu_memory: float | None = None,
    on_work: OnWork = no_work,
) -> Iterator[Drawn]:
    """Draw prompts, those of a model in one precision together, so that it is loaded once for them.

    Args:
        prompts: n of them.
        decisions: for each.
        variants: the candidates.
        folders: of the models' pipelines.
        out: gets `<number>-<prompt's id>.png`.
        seed: of the noise; with the prompt it decides the image, so a prompt's image does not depend on those
            beside it.
        device: `auto` or a torch device name.
        gpu_memory: GiB of the GPU to stay within; by default what is free.
        on_work: called with what there is to draw.

    Raises:
        InvalidValue: a candidate is not drawn by a pipeline of the graph.
        InsufficientMemory: a model does not fit the GPU.
        OutOfMemory: it should, and did not.

    Yields:
        What was drawn, as soon as it is there; by model, not in the order of the prompts.
    """
    from matchgraph.training.config import SampleConfig
    from matchgraph.training.memory.drawing import opened_to_draw
    from matchgraph.training.sampling.generate import stream_images

    by_id = {variant.id: variant for variant in variants}
    chosen = [by_id[decision.variant] for decision in decisions]
    for variant in chosen:
        variant.require_drawing("ask that service itself")
    pace = Pace(Work(len(chosen), sum(variant.cost for variant in chosen)), on_work)
    out.mkdir(parents=True, exist_ok=True)
    for alike in by_pipeline(chosen):
        with opened_to_draw(
            folders[alike[0].model],
            device=device,
            resolution_px=max(variant.require_drawing().resolution_px for variant in alike),
            batch_size=BATCH,
            precision=alike[0].require_drawing().precision,
            gpu_memory=gpu_memory,
        ) as loaded:
            for variant in alike:
                rows = [row for row, own in enumerate(chosen) if own == variant]
                texts = [prompts[row] for row in rows]
                config = SampleConfig(len(texts), variant.require_drawing(), seed, BATCH)
                numbers = [f"{prompt_id(text)}-0" for text in texts]
                images = stream_images(loaded, None, texts, config, numbers=numbers)
                for number, (row, image) in enumerate(zip(rows, images, strict=True)):
                    if number % BATCH == 0:
                        drawn = len(rows[number : number + BATCH])
                        pace.drew(drawn, drawn * variant.cost)
                    path = out / f"{row:04d}-{prompt_id(prompts[row])}.png"
                    image.save(path)
                    yield Drawn(path, prompts[row], variant.id, variant.cost, variant.unit)
