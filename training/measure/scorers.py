"""Scorers of images by the name of their metric."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.training.errors import ScorerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from matchgraph.training.measure.quality import Scorer

SCORE_METRICS = ("clip_score", "sharpness", "aesthetic", "image_reward", "nearness")


def load_scorers(
    metrics: Sequence[str],
    probe: str,
    *,
    weights: Mapping[str, Path | None] | None = None,
    device: str = "auto",
) -> list[Scorer]:
    """Load what scores images.

    Args:
        metrics: names among `SCORE_METRICS`, or of mixtures; a repeated one counts once.
        probe: the CLIP, see `training.measure.extractors.load_clip`.
        weights: of `aesthetic` and `image_reward`, by metric; see `quality.AestheticScore` and
            `reward.ImageReward`. Of `nearness`, the folder of images to be near to; of a mixture, its file.
        device: `auto` or a torch device name.

    Returns:
        One scorer a metric, in their order.

    Raises:
        ScorerUnavailable: there is no such metric, or its weights are not given.
        TrainingError: weights cannot be read.
    """
    from matchgraph.training.files import file_hash, json_hash
    from matchgraph.training.images import DatasetFolder, list_captioned_images, load_rgb
    from matchgraph.training.measure.extractors import load_clip
    from matchgraph.training.measure.mixture import MixedScore, Mixture
    from matchgraph.training.measure.prompts import load_prompt_encoder
    from matchgraph.training.measure.quality import AestheticScore, ClipScore, Nearness, Sharpness
    from matchgraph.training.measure.reward import ImageReward

    def given(metric: str) -> Path:
        path = (weights or {}).get(metric)
        if path is None:
            option = metric.removeprefix("image_")
            if metric == "nearness":
                raise ScorerUnavailable("The metric nearness needs images: give them with --images.")
            raise ScorerUnavailable(f"The metric {metric} needs weights: give them with --{option}-weights.")
        return path

    def near_to(folder: Path) -> Scorer:
        paths = [image.path for image in list_captioned_images(DatasetFolder(folder))]
        # Neither names nor the order of the files matter.
        fingerprint = json_hash(sorted(map(file_hash, paths)))
        return Nearness(load_clip(probe, device=device), (load_rgb(path) for path in paths), fingerprint)

    def mixed(path: Path) -> Scorer:
        mixture = Mixture.load(path)
        names = [part.metric for part in mixture.parts]
        return MixedScore(mixture, load_scorers(names, probe, weights=weights, device=device))

    made: dict[str, Callable[[], Scorer]] = {
        "clip_score": lambda: ClipScore(
            load_clip(probe, device=device), load_prompt_encoder(probe, device=device)
        ),
        "sharpness": Sharpness,
        "aesthetic": lambda: AestheticScore(load_clip(probe, device=device), given("aesthetic")),
        "nearness": lambda: near_to(given("nearness")),
        "image_reward": lambda: ImageReward(given("image_reward"), device=device),
    }
    for name, path in (weights or {}).items():
        if name not in made and path is not None:
            made[name] = functools.partial(mixed, path)
    wanted = list(dict.fromkeys(metrics))
    if unknown := [metric for metric in wanted if metric not in made]:
        raise ScorerUnavailable(
            f"There is no scorer called {unknown[0]!r}: use one of {', '.join(made)}, or define it "
            "as a mixture with `matchgraph route mix`."
        )
    return [made[metric]() for metric in wanted]
