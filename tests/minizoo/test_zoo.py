"""The ten models: what they are, how they are trained, and that they assemble into the real classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from matchgraph.minizoo.build import loop, zoo
from matchgraph.minizoo.build.denoisers import BUILDERS, new_denoiser, new_scheduler
from matchgraph.minizoo.build.errors import StageNotReady
from matchgraph.minizoo.build.icons import STYLES
from matchgraph.minizoo.build.loop import averaged_weights
from matchgraph.minizoo.build.zoo import (
    ZOO,
    Lesson,
    Pupil,
    assemble,
    corpus_latents,
    drawing_weights,
    pretrain,
)
from matchgraph.training.pipelines.families import FAMILIES, family

SHIPPED = [model for model in ZOO.values() if model.shipped]
each_model = pytest.mark.parametrize("model", SHIPPED, ids=lambda model: model.name)


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(loop, "WORK", tmp_path)
    monkeypatch.setattr(loop, "LOGS", tmp_path / "logs")
    return tmp_path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models that others build on are trained once."""
    return tmp_path_factory.mktemp("built")


def short(model: zoo.ZooModel, steps: int = 2) -> zoo.ZooModel:
    return replace(model, loop=replace(model.loop, steps=steps, batch_size=4, checkpoint_every=1))


def test_there_are_ten_with_the_real_ones_classes_in_the_order_of_their_sizes() -> None:
    assert len(SHIPPED) == 10
    # The later families are tried on tiny pipelines alone.
    assert {model.family for model in SHIPPED} == {"flux", "kolors", "pixart", "sana", "sd", "sd3", "sdxl"}
    sizes = {
        model.name.removeprefix("tiny-"): sum(p.numel() for p in new_denoiser(model.shape, 0).parameters())
        for model in SHIPPED
    }
    # But for Kolors, whose 256 tokens cost what a wider projection of them would.
    order = ("pixart", "vega", "sd15", "sana-small", "sd3", "kolors", "sdxl", "sana-large", "flux")
    assert [sizes[name] for name in order] == sorted(sizes[name] for name in order)
    assert sizes["juggernaut"] == sizes["sdxl"]
    # In half precision, beside 17 MB of shared parts.
    assert 2 * sum(sizes.values()) < 43e6


def test_no_two_models_see_the_same_mix_and_every_style_is_somebodys_main_one() -> None:
    mixes = [(sorted(model.styles.items()), sorted(model.categories.items())) for model in SHIPPED]
    assert all(mixes.count(mix) == 1 for mix in mixes)
    for style in STYLES:
        assert any(model.styles.get(style, 0) >= 0.3 for model in SHIPPED)


def test_icons_are_drawn_by_the_shares_of_styles_and_the_weights_of_categories(small_pool) -> None:
    model = replace(ZOO["tiny-sd3"], styles={"noto": 0.75, "twemoji": 0.25}, categories={"food": 3.0})
    weights = drawing_weights(model, small_pool.icons)
    by_style = {
        style: sum(w for w, i in zip(weights, small_pool.icons, strict=True) if i.style == style)
        for style in ("noto", "twemoji", "openmoji")
    }
    assert by_style == pytest.approx({"noto": 0.75, "twemoji": 0.25, "openmoji": 0.0})
    noto = {i.name: w for w, i in zip(weights, small_pool.icons, strict=True) if i.style == "noto"}
    assert noto["red-apple"] == pytest.approx(3 * noto["tiger"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"styles": {"noto": 0.5}},
        {"styles": {"crayon": 1.0}},
        {"shape": "dalle"},
        {"categories": {"flags": 2.0}},
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="invalid model"):
        replace(ZOO["tiny-sd15"], **wrong)


@pytest.mark.slow
@each_model
def test_a_few_steps_train_it_through_its_familys_own_objective(
    model, small_pool, shared, built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "WORK", built)
    monkeypatch.setattr(loop, "LOGS", built / "logs")
    monkeypatch.setattr(zoo, "ZOO", {name: short(each) for name, each in ZOO.items()})
    for name in zoo.ZOO[model.name].needs:
        run(zoo.ZOO[name], small_pool, shared, built)
    trained = run(zoo.ZOO[model.name], small_pool, shared, built)
    before = (
        zoo.trained_denoiser(zoo.ZOO[model.parent])
        if model.parent
        else new_denoiser(model.shape, model.loop.seed)
    )
    moved = [
        not torch.equal(old, new) for old, new in zip(before.parameters(), trained.parameters(), strict=True)
    ]
    assert sum(moved) > 0.8 * len(moved)
    assert averaged_weights(model.loop.name)[0] == 2
    pipe = assemble(model, trained, shared)
    assert type(pipe).__name__ == FAMILIES[model.family][0]
    kind = family(model.family)
    images = kind.sample(
        pipe,
        kind.encode_prompts(pipe, ["red apple, food and drink", "tiger, animal or plant"]),
        kind.encode_prompts(pipe, [""]),
        steps=2,
        guidance=3.0,
        generators=[torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)],
        resolution_px=32,
    )
    assert [image.size for image in images] == [(32, 32)] * 2
    assert images[0].tobytes() != images[1].tobytes()  # it reads its captions


def run(model, pool, shared: Path, work: Path):
    return pretrain(model, pool, root=shared, cache=work / "latents")


def test_a_model_waits_for_those_it_builds_on(small_pool, shared, own_folders) -> None:
    with pytest.raises(StageNotReady, match="tiny-juggernaut builds on tiny-sdxl"):
        run(ZOO["tiny-juggernaut"], small_pool, shared, own_folders)


def test_stopping_between_rounds_changes_nothing(small_pool, shared, own_folders) -> None:
    model = short(ZOO["tiny-pixart"], steps=4)
    whole = run(model, small_pool, shared, own_folders)
    loop.checkpoint_path(model.loop.name).unlink()
    pretrain(model, small_pool, until=0.5, root=shared, cache=own_folders / "latents")
    assert averaged_weights(model.loop.name)[0] == 2
    resumed = run(model, small_pool, shared, own_folders)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_latents_are_those_of_the_icons_and_of_their_mirror_images(small_pool, shared, tmp_path) -> None:
    latents = corpus_latents("kl", small_pool, shared, tmp_path)
    assert latents.shape == (2, len(small_pool.icons), 8, 8, 8)
    assert not torch.equal(latents[0], latents[1])
    mirrored = replace(small_pool, pixels=small_pool.pixels[:, :, ::-1].copy())
    other = corpus_latents("kl", mirrored, shared, tmp_path)
    torch.testing.assert_close(other[0], latents[1])
    assert len(list(tmp_path.glob("kl-*.safetensors"))) == 2
    assert torch.equal(corpus_latents("kl", small_pool, shared, tmp_path), latents)


def test_a_pupil_is_compared_with_its_guided_teacher() -> None:
    student, teacher = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        student.weight.fill_(1.0)
        teacher.weight.fill_(2.0)

    def tupled(module: torch.nn.Module):
        return lambda text: (module(text),)

    text = torch.full((3, 1), 5.0)
    plain = Pupil(tupled(student), tupled(teacher), 1.0, {})
    assert plain(text=text)[0].tolist() == [[5.0]] * 3
    assert plain.distance.item() == pytest.approx((10.0 - 5.0) ** 2)
    guided = Pupil(tupled(student), tupled(teacher), 3.0, {"text": torch.ones(1, 1)})
    guided(text=text)
    # unconditional 2, conditional 10: 2 + 3 * 8
    assert guided.distance.item() == pytest.approx((26.0 - 5.0) ** 2)
    guided.distance.backward()
    assert teacher.weight.grad is None
    assert student.weight.grad is not None


@pytest.mark.parametrize(("guidance", "share"), [(0.5, 0.5), (1.0, 0.0), (1.0, 1.5)])
def test_a_lesson_that_teaches_nothing_is_refused(guidance: float, share: float) -> None:
    with pytest.raises(ValueError, match="invalid lesson"):
        Lesson("tiny-sdxl", guidance, share)


@pytest.mark.parametrize("shape", sorted(BUILDERS))
def test_schedulers_are_the_real_ones(shape: str) -> None:
    expected = {
        "sd15": "PNDMScheduler",
        "sdxl": "EulerDiscreteScheduler",
        "vega": "EulerDiscreteScheduler",
        "kolors": "EulerDiscreteScheduler",
        "pixart": "DPMSolverMultistepScheduler",
        "sana-small": "DPMSolverMultistepScheduler",
        "sana-large": "DPMSolverMultistepScheduler",
        "sd3": "FlowMatchEulerDiscreteScheduler",
        "flux": "FlowMatchEulerDiscreteScheduler",
    }
    assert type(new_scheduler(shape)).__name__ == expected[shape]
    assert new_scheduler("kolors").config.num_train_timesteps == 1100
