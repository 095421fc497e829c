"""What candidates cost, against the figures that the paper prints for SDXL."""

from __future__ import annotations

import numpy as np
import pytest

from matchgraph.drawing import Drawing
from matchgraph.graphdb.prompt_models import Variant
from matchgraph.minizoo import ROOT
from matchgraph.routing.variants import by_pipeline, variants_of
from matchgraph.training.config import SampleConfig
from matchgraph.training.errors import InvalidConfig
from matchgraph.training.pipelines.loading import opened
from matchgraph.training.sampling.generate import sample_images

SDXL = ROOT.parent / "zoo" / "sdxl-base"
# CATImage, Tables 1 and 2: what one image costs, in TFLOP, by numbers of steps.
PRINTED = {9: 107.73, 10: 119.70, 20: 239.40, 22: 263.34, 50: 598.50, 65: 778.05, 100: 1197.00}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "printed"),
    [
        ({}, PRINTED),
        ({"sampler": "DDIMScheduler"}, {50: 598.50}),
        ({"cache_interval": 3}, {50: 210.00}),
        # Distilled ones, Lightning and Turbo, run without guidance, Turbo at its own 512 pixels.
        ({"guidance": 0.0}, {4: 23.92}),
        ({"guidance": 0.0, "resolution_px": 512}, {1: 1.54}),
    ],
    ids=["euler", "ddim", "deepcache", "lightning", "turbo"],
)
def test_sdxl_costs_what_the_paper_says(how: dict, printed: dict[int, float]) -> None:
    variants = variants_of("sdxl", SDXL, list(printed), **how)
    assert {variant.drawing.steps: variant.cost for variant in variants} == {
        steps: pytest.approx(tflop, rel=0.005) for steps, tflop in printed.items()
    }


def test_ids_name_what_is_not_the_models_own() -> None:
    folder = ROOT / "models" / "tiny-sdxl"
    own = variants_of("sdxl", folder, [20, 1, 20])
    assert [variant.id for variant in own] == ["sdxl@1", "sdxl@20"]
    [other] = variants_of("sdxl", folder, [50], sampler="DDIMScheduler", guidance=7.5, cache_interval=3)
    assert other.id == "sdxl@50-DDIM-g7.5-cache3"
    assert other.drawing == Drawing(50, 7.5, "DDIMScheduler", own[0].drawing.resolution_px, 3)
    [half] = variants_of("sdxl", folder, [20], precision="bf16")
    assert (half.id, half.cost) == ("sdxl@20-bf16", own[1].cost)


def test_a_pipeline_draws_what_is_of_its_model_and_precision() -> None:
    one, four, nine = (Variant(f"a@{steps}", "a", Drawing(steps), 1.0) for steps in (1, 4, 9))
    half = Variant("a@4-bf16", "a", Drawing(4, precision="bf16"), 1.0)
    other = Variant("b@4", "b", Drawing(4), 1.0)
    assert by_pipeline([one, half, other, four, one, nine]) == [[one, four, nine], [half], [other]]


def test_caching_changes_images_a_little_and_only_while_it_is_on() -> None:
    prompts = ["a red apple, food and drink"] * 2

    def drawn(loaded: object, interval: int) -> np.ndarray:
        config = SampleConfig(2, Drawing(6, 2.0, resolution_px=32, cache_interval=interval), 0, 2)
        return np.stack(
            [np.asarray(image, dtype=float) for image in sample_images(loaded, None, prompts, config)]
        )

    with opened(ROOT / "models" / "tiny-sdxl", device="cpu", precision="fp32") as loaded:
        plain, cached, again = drawn(loaded, 1), drawn(loaded, 3), drawn(loaded, 1)
        wholly = drawn(loaded, 100)
    assert (plain == again).all()
    assert 0 < np.abs(plain - cached).mean() < np.abs(plain - wholly).mean()


def test_only_u_nets_can_be_cached() -> None:
    with pytest.raises(InvalidConfig, match="no U-Net"):
        variants_of("flux", ROOT / "models" / "tiny-flux", [4], cache_interval=2)
