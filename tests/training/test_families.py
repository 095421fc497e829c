"""Each family's conditioning, latents and objective, against the formulas written out here."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

from matchgraph.training.errors import InvalidConfig, UnknownFamily, UnsupportedScheduler
from matchgraph.training.pipelines.adapters import attach_adapter, detach_adapter
from matchgraph.training.pipelines.families import FAMILIES, family, family_of
from matchgraph.training.pipelines.families.objectives import draw_sigmas
from matchgraph.training.pipelines.few_steps import STUDENT_STEPS
from matchgraph.training.pipelines.loading import load_pipeline, quiet_libraries
from matchgraph.training.pipelines.samplers import EMBEDDED_GUIDANCE
from tests.training import tiny

NAMES = sorted(FAMILIES)
ZOO = Path(__file__).parents[2] / "zoo"  # configurations of real models
# Every VAE of the tiny pipelines has this scaling factor; FLUX.1's and Lumina's have a shift as well.
SCALE = 0.7
PROMPTS = ["a cat", "", "dogs"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return {name: load_pipeline(tiny_folder(name), device="cpu") for name in NAMES}


# Of squares, and of a wide aspect bucket.
@pytest.fixture(scope="module", params=[(8, 8), (8, 12)], ids=["square", "wide"])
def latents(request) -> torch.Tensor:
    return torch.randn(3, tiny.CHANNELS, *request.param, generator=generator(9))


def pixels_of(latents: torch.Tensor) -> list[int]:
    """Height and width of the images."""
    return [4 * side for side in latents.shape[-2:]]


def test_families_are_found_by_pipeline_class():
    assert sorted(tiny.BUILDERS) == sorted(tiny.CALL) == NAMES
    for name, (pipeline_class, _) in FAMILIES.items():
        found = family_of({"_class_name": pipeline_class, "unet": ["diffusers", "X"]})
        assert (found.name, found.pipeline_class) == (name, pipeline_class)
        assert family(name) is found
    assert family_of({"_class_name": "LatentConsistencyModelPipeline"}) is family("sd")
    for odd in ([], {}, 3):
        with pytest.raises(UnknownFamily):
            family_of({"_class_name": odd})
    with pytest.raises(UnknownFamily, match=r"'OtherPipeline'; known classes: .*FluxPipeline, Kolors"):
        family_of({"_class_name": "OtherPipeline"})
    with pytest.raises(UnknownFamily, match="None"):
        family_of({})
    with pytest.raises(UnknownFamily, match=f"known: {', '.join(NAMES)}"):
        family("unet")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_those_of_the_pipelines_call(loaded, name):
    pipe, own = loaded[name]
    call = inspect.signature(type(pipe).__call__).parameters
    assert own.default_steps == call["num_inference_steps"].default
    assert own.default_guidance == call[own.guidance_argument].default
    assert own.classifier_free == (name not in ("flux", "flux2_dev"))


@pytest.mark.parametrize("name", NAMES)
def test_row_i_of_the_conditioning_belongs_to_prompt_i(loaded, name):
    pipe, own = loaded[name]
    together = own.encode_prompts(pipe, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone = own.encode_prompts(pipe, [prompt])
        for key, value in together.items():
            assert len(value) == 3
            torch.testing.assert_close(value[row : row + 1], alone[key])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(together["prompt_embeds"][one], together["prompt_embeds"][other])


@pytest.mark.parametrize("name", ["sd", "sdxl", "kolors", "pixart", "pixart_alpha", "sana", "sd3", "lumina2"])
def test_the_empty_prompt_is_the_pipelines_own_unconditional_row(loaded, name):
    pipe, own = loaded[name]
    options = {"sdxl": {}, "sd": {"num_images_per_prompt": 1}, "sd3": {"prompt_2": None, "prompt_3": None}}
    length = {} if name in ("sd", "sdxl", "kolors") else {"max_sequence_length": tiny.TOKENS}
    with torch.no_grad():
        encoded = pipe.encode_prompt(
            ["a cat"],
            device=torch.device("cpu"),
            do_classifier_free_guidance=True,
            **options.get(name, {}),
            **length,
        )
    # Positive rows stand before negative ones, or each before its own negative.
    negative = encoded[1::2] if name in ("sd", "sdxl", "kolors", "sd3") else encoded[2:]
    for row, expected in zip(own.encode_prompts(pipe, [""]).values(), negative, strict=True):
        torch.testing.assert_close(row, expected)


def test_sdxl_without_forced_zeros_encodes_the_empty_prompt(tiny_folder):
    pipe, own = load_pipeline(tiny_folder("sdxl", force_zeros_for_empty_prompt=False), device="cpu")
    rows = own.encode_prompts(pipe, ["a cat", ""])
    assert all(value[1].abs().max() > 0 for value in rows.values())
    pipe.register_to_config(force_zeros_for_empty_prompt=True)
    zeroed = own.encode_prompts(pipe, ["a cat", ""])
    assert all(value[1].abs().max() == 0 for value in zeroed.values())
    assert all(torch.equal(value[0], rows[key][0]) for key, value in zeroed.items())


def test_sana_shows_its_instruction_with_every_prompt_but_the_empty_one(loaded):
    pipe, own = loaded["sana"]
    rows = own.encode_prompts(pipe, ["a cat"])
    with torch.no_grad():
        bare = pipe.encode_prompt(["a cat"], False, device=torch.device("cpu"), max_sequence_length=16)[0]
    assert not torch.allclose(rows["prompt_embeds"], bare)


def test_the_zero_block_in_place_of_t5_is_short(tiny_folder):
    pipe, own = load_pipeline(tiny_folder("sd3", t5_encoder=False), device="cpu")
    embeds = own.encode_prompts(pipe, ["a cat"])["prompt_embeds"]
    assert embeds.shape[1] == 2 * tiny.TOKENS
    assert embeds[:, tiny.TOKENS :].abs().max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_truncated_captions_are_counted(loaded, name):
    pipe, own = loaded[name]
    # CLIP: 14 letters and two special tokens fill the 16. The others have one text encoder each, of
    # which a truncated prompt is one whose last letter makes no difference.
    letters = range(250, 258) if name == "kolors" else range(10, 18)
    if name not in ("flux", "sd", "sd3", "sdxl"):
        with quiet_libraries():
            rows = own.encode_prompts(pipe, ["a" * n for n in letters])["prompt_embeds"]
            changed = own.encode_prompts(pipe, ["a" * (n - 1) + "b" for n in letters])["prompt_embeds"]
        cut = [n for n, one, other in zip(letters, rows, changed, strict=True) if torch.equal(one, other)]
    else:
        cut = [n for n in letters if n > 14]
    assert 0 < len(cut) < len(letters)
    assert [n for n in letters if own.count_truncated(pipe, ["a" * n])] == cut
    assert own.count_truncated(pipe, ["a" * n for n in letters] + ["", "x" * 300]) == len(cut) + 1


@pytest.mark.parametrize("name", ["pixart", "sana"])
def test_counting_sees_prompts_as_the_pipeline_shows_them(loaded, name):
    pipe, own = loaded[name]
    # Capitals, which these pipelines take away, are unknown to the tokenizers here and would be one token.
    assert own.count_truncated(pipe, ["  " + "A" * 17 + "  ", "  aa  "]) == 1


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"flux2_dev", "flux2_klein", "qwen_image", "sana"}))
def test_latents_are_shifted_scaled_and_drawn_from_the_generator(loaded, name):
    pipe, own = loaded[name]
    shift = 0.1 if name in ("chroma", "flux", "lumina2", "z_image") else 0.0
    pixels = torch.rand(2, 3, 32, 32, generator=generator()) * 2 - 1
    posterior = pipe.vae.encode(pixels).latent_dist
    torch.testing.assert_close(own.encode_images(pipe, pixels), (posterior.mean - shift) * SCALE)
    drawn = own.encode_images(pipe, pixels, generator(5))
    torch.testing.assert_close(drawn, (posterior.sample(generator(5)) - shift) * SCALE)
    side = 4 if name == "lumina2" else 8
    assert drawn.shape == (2, tiny.CHANNELS, side, side)
    assert not torch.equal(drawn, own.encode_images(pipe, pixels, generator(6)))


def test_qwen_image_latents_are_normalised_by_channel_as_its_pipeline_does(loaded):
    pipe, own = loaded["qwen_image"]
    pixels = torch.rand(2, 3, 32, 32, generator=generator()) * 2 - 1
    posterior = pipe.vae.encode(pixels[:, :, None]).latent_dist
    mean, deviation = (
        torch.tensor(values).view(-1, 1, 1) for values in (tiny.LATENTS_MEAN, tiny.LATENTS_STD)
    )
    torch.testing.assert_close(own.encode_images(pipe, pixels), (posterior.mean[:, :, 0] - mean) / deviation)
    drawn = own.encode_images(pipe, pixels, generator(5))
    torch.testing.assert_close(drawn, (posterior.sample(generator(5))[:, :, 0] - mean) / deviation)


@pytest.mark.parametrize("name", ["flux2_dev", "flux2_klein"])
def test_flux2_latents_are_those_of_its_pipelines_own_encoding_of_pictures(loaded, name):
    pipe, own = loaded[name]
    pixels = torch.rand(2, 3, 32, 32, generator=generator()) * 2 - 1
    expected = pipe._encode_vae_image(pixels, generator())
    assert expected.shape[1:] == own.latent_shape(pipe, 32) == (4 * tiny.CHANNELS, 4, 4)
    # Of the posterior's mean, whatever the generator.
    for drawn in (own.encode_images(pipe, pixels), own.encode_images(pipe, pixels, generator(5))):
        torch.testing.assert_close(drawn, expected)


def test_an_autoencoder_without_a_posterior_has_one_latent_for_each_image(loaded):
    pipe, own = loaded["sana"]
    pixels = torch.rand(2, 3, 32, 32, generator=generator()) * 2 - 1
    expected = pipe.vae.encode(pixels).latent * SCALE
    torch.testing.assert_close(own.encode_images(pipe, pixels), expected)
    torch.testing.assert_close(own.encode_images(pipe, pixels, generator(5)), expected)


def test_in_half_precision_images_are_encoded_in_single_precision(tiny_folder):
    pipe, own = load_pipeline(tiny_folder("sdxl"), device="cpu", dtype=torch.float16)
    weights = {key: value.clone() for key, value in pipe.vae.state_dict().items()}
    pixels = torch.rand(1, 3, 32, 32, generator=generator()) * 2 - 1
    encoded = own.encode_images(pipe, pixels)
    assert all(torch.equal(value, weights[key]) for key, value in pipe.vae.state_dict().items())
    assert {value.dtype for value in weights.values()} == {torch.float16}
    torch.testing.assert_close(encoded, pipe.vae.float().encode(pixels).latent_dist.mean * SCALE)


def alphas(kind: str, count: int = 1000) -> torch.Tensor:
    if kind == "linear":
        betas = torch.linspace(0.0001, 0.02, count)
    else:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, count) ** 2
    return torch.cumprod(1 - betas, dim=0)


def diffused(kind: str, latents: torch.Tensor, count: int = 1000):
    """The draws of the loss, and what follows from them: DDPM, Eq. 4."""
    draws = generator(7)
    timesteps = torch.randint(0, count, (len(latents),), generator=draws)
    noise = torch.randn(latents.shape, generator=draws)
    a = alphas(kind, count)[timesteps].view(-1, 1, 1, 1)
    return timesteps, noise, a, a.sqrt() * latents + (1 - a).sqrt() * noise


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_sd_loss_is_that_of_the_formula(tiny_folder, latents, prediction_type):
    pipe, own = load_pipeline(tiny_folder("sd", prediction_type=prediction_type), device="cpu")
    conditioning = own.encode_prompts(pipe, PROMPTS)
    timesteps, noise, a, noisy = diffused("scaled_linear", latents)
    predicted = pipe.unet(noisy, timesteps, conditioning["prompt_embeds"]).sample
    target = noise if prediction_type == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * latents
    expected = ((predicted - target) ** 2).mean()
    torch.testing.assert_close(own.loss(pipe, pipe.unet, latents, conditioning, generator(7)), expected)


# SDXL, its v-predicting kind, Segmind-Vega's middle block, and Kolors with its 1,100 timesteps.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sdxl", {}),
        ("sdxl", {"prediction_type": "v_prediction"}),
        ("sdxl", {"mid_block_type": "UNetMidBlock2D"}),
        ("kolors", {}),
    ],
)
def test_sdxl_and_kolors_losses_are_told_of_sizes_and_pooled_prompts(tiny_folder, latents, name, options):
    pipe, own = load_pipeline(tiny_folder(name, **options), device="cpu")
    conditioning = own.encode_prompts(pipe, PROMPTS)
    timesteps, noise, a, noisy = diffused("scaled_linear", latents, 1100 if name == "kolors" else 1000)

    def expected(sizes: list[list[float]]) -> torch.Tensor:
        predicted = pipe.unet(
            noisy,
            timesteps,
            encoder_hidden_states=conditioning["prompt_embeds"],
            added_cond_kwargs={
                "text_embeds": conditioning["pooled_prompt_embeds"],
                "time_ids": torch.tensor(sizes),
            },
        ).sample
        velocity = a.sqrt() * noise - (1 - a).sqrt() * latents
        target = velocity if options.get("prediction_type") == "v_prediction" else noise
        return ((predicted - target) ** 2).mean()

    unknown = own.loss(pipe, pipe.unet, latents, conditioning, generator(7))
    high, wide = pixels_of(latents)
    torch.testing.assert_close(unknown, expected([[high, wide, 0.0, 0, high, wide]] * 3))
    # Height before width; the middle of the picture is kept: 32 of 40 and of 64 pixels; or of 48, 38 and 96.
    told = own.image_conditioning(pipe, [(32, 32), (100, 80), (50, 100)], [(wide, high)] * 3)
    known = own.loss(pipe, pipe.unet, latents, conditioning | told, generator(7))
    corners = [[0, 0], [0, 4], [16, 0]] if wide == high else [[8, 0], [3, 0], [32, 0]]
    originals = [[32.0, 32], [80, 100], [100, 50]]
    sizes = [[*of, *corner, high, wide] for of, corner in zip(originals, corners, strict=True)]
    torch.testing.assert_close(known, expected(sizes))
    assert not torch.allclose(known, unknown)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_playground_is_trained_to_denoise_as_edm_does(tiny_folder, latents, prediction_type):
    pipe, own = load_pipeline(tiny_folder("sdxl", prediction_type=prediction_type, edm=True), device="cpu")
    conditioning = own.encode_prompts(pipe, PROMPTS)
    draws = generator(7)
    places = torch.randint(0, 1000, (3,), generator=draws).double() / 1000
    noise = torch.randn(latents.shape, generator=draws)
    # Karras et al., Eq. 5 and Table 1, with sigma_data 0.5.
    s = ((80 ** (1 / 7) + places * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7).float().view(-1, 1, 1, 1)
    noisy, spread = latents + s * noise, s**2 + 0.5**2
    predicted = pipe.unet(
        noisy / spread.sqrt(),
        s.flatten().log() / 4,
        encoder_hidden_states=conditioning["prompt_embeds"],
        added_cond_kwargs={
            "text_embeds": conditioning["pooled_prompt_embeds"],
            "time_ids": torch.tensor([[*pixels_of(latents), 0.0, 0, *pixels_of(latents)]] * 3),
        },
    ).sample
    sign = 1 if prediction_type == "epsilon" else -1
    denoised = 0.5**2 / spread * noisy + sign * s * 0.5 / spread.sqrt() * predicted
    expected = ((denoised - latents) ** 2).mean()
    loss = own.loss(pipe, pipe.unet, latents, conditioning, generator(7))
    torch.testing.assert_close(loss, expected)
    # Sampling leaves the grid of training alone, and a batch may come in passes.
    pipe.scheduler.set_timesteps(3)
    passes = [
        own.loss(pipe, pipe.unet, latents, conditioning, generator(7), slice(n, n + 1)) for n in range(3)
    ]
    torch.testing.assert_close(sum(passes) / 3, expected)


def test_sizes_are_named_as_the_pipeline_names_them(loaded):
    pipe, own = loaded["sdxl"]
    for size, shape, original, corner, target in [
        ((100, 80), (32, 32), (80, 100), (0, 4), (32, 32)),
        ((32, 32), (32, 32), (32, 32), (0, 0), (32, 32)),
        ((100, 80), (24, 40), (80, 100), (0, 13), (40, 24)),
    ]:
        expected = pipe._get_add_time_ids(original, corner, target, torch.float32, tiny.POOLED)
        (row,) = own.image_conditioning(pipe, [size], [shape]).values()
        assert torch.equal(row, expected)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"sdxl", "kolors"}))
def test_other_families_are_told_nothing_of_images(loaded, name):
    pipe, own = loaded[name]
    assert own.image_conditioning(pipe, [(100, 80)], [(32, 32)]) == {}


@pytest.mark.parametrize("learned_sigma", [True, False])
def test_pixart_loss_is_that_of_the_noise_channels(tiny_folder, latents, learned_sigma):
    pipe, own = load_pipeline(tiny_folder("pixart", learned_sigma=learned_sigma), device="cpu")
    conditioning = own.encode_prompts(pipe, PROMPTS)
    timesteps, noise, _, noisy = diffused("linear", latents)
    predicted = pipe.transformer(
        noisy,
        encoder_hidden_states=conditioning["prompt_embeds"],
        encoder_attention_mask=conditioning["prompt_attention_mask"],
        timestep=timesteps,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    assert predicted.shape[1] == (8 if learned_sigma else 4)
    expected = ((predicted[:, :4] - noise) ** 2).mean()
    torch.testing.assert_close(
        own.loss(pipe, pipe.transformer, latents, conditioning, generator(7)), expected
    )


@pytest.mark.parametrize("side", [128, 64])
def test_pixart_alpha_is_told_of_sizes_where_it_was_made_for_1024_pixels(tiny_folder, latents, side):
    pipe, own = load_pipeline(tiny_folder("pixart_alpha", sample_size=side), device="cpu")
    conditioning = own.encode_prompts(pipe, PROMPTS)
    timesteps, noise, _, noisy = diffused("linear", latents)
    high, wide = pixels_of(latents)
    told = {
        "resolution": torch.tensor([[high, wide]] * 3, dtype=torch.float32),
        "aspect_ratio": torch.tensor([[high / wide]] * 3),
    }
    predicted = pipe.transformer(
        noisy,
        encoder_hidden_states=conditioning["prompt_embeds"],
        encoder_attention_mask=conditioning["prompt_attention_mask"],
        timestep=timesteps,
        added_cond_kwargs=told if side == 128 else {"resolution": None, "aspect_ratio": None},
    ).sample
    expected = ((predicted[:, :4] - noise) ** 2).mean()
    torch.testing.assert_close(
        own.loss(pipe, pipe.transformer, latents, conditioning, generator(7)), expected
    )


def flowed(latents: torch.Tensor, logit_normal: bool, shift: float):
    """The draws of a flow-matching loss on a grid of 1,000 levels, and what follows from them."""
    draws = generator(7)
    if logit_normal:
        position = 1 / (1 + torch.exp(-torch.randn(len(latents), generator=draws)))
    else:
        position = torch.rand(len(latents), generator=draws)
    noise = torch.randn(latents.shape, generator=draws)
    plain = [(1000 - math.floor(1000 * float(u))) / 1000 for u in position]
    sigma = torch.tensor([shift * s / (1 + (shift - 1) * s) for s in plain])
    s = sigma.view(-1, 1, 1, 1)
    return sigma, noise, (1 - s) * latents + s * noise


@pytest.mark.parametrize("shift", [3.0, 1.0])
def test_sd3_loss_is_rectified_flow_at_logit_normal_sigmas(tiny_folder, latents, shift):
    pipe, own = load_pipeline(tiny_folder("sd3", shift=shift), device="cpu")
    conditioning = own.encode_prompts(pipe, PROMPTS)
    sigma, noise, noisy = flowed(latents, logit_normal=True, shift=shift)
    predicted = pipe.transformer(
        hidden_states=noisy,
        timestep=1000 * sigma,
        encoder_hidden_states=conditioning["prompt_embeds"],
        pooled_projections=conditioning["pooled_prompt_embeds"],
    ).sample
    expected = ((predicted - (noise - latents)) ** 2).mean()
    torch.testing.assert_close(
        own.loss(pipe, pipe.transformer, latents, conditioning, generator(7)), expected
    )


@pytest.mark.parametrize("qk_norm", [None, "rms_norm_across_heads"])
def test_sana_loss_is_rectified_flow_at_uniform_sigmas(tiny_folder, latents, qk_norm):
    pipe, own = load_pipeline(tiny_folder("sana", qk_norm=qk_norm), device="cpu")
    conditioning = own.encode_prompts(pipe, PROMPTS)
    sigma, noise, noisy = flowed(latents, logit_normal=False, shift=1.0)
    predicted = pipe.transformer(
        noisy,
        encoder_hidden_states=conditioning["prompt_embeds"],
        timestep=1000 * sigma,
        encoder_attention_mask=conditioning["prompt_attention_mask"],
    ).sample
    expected = ((predicted - (noise - latents)) ** 2).mean()
    torch.testing.assert_close(
        own.loss(pipe, pipe.transformer, latents, conditioning, generator(7)), expected
    )


@pytest.mark.parametrize("guidance_embeds", [True, False])
def test_flux_loss_is_rectified_flow_on_packed_latents(tiny_folder, latents, guidance_embeds):
    pipe, own = load_pipeline(tiny_folder("flux", guidance_embeds=guidance_embeds), device="cpu")
    conditioning = own.encode_prompts(pipe, PROMPTS)
    high, wide = pixels_of(latents)
    # The dynamic shift is the sampler's alone.
    sigma, noise, noisy = flowed(latents, logit_normal=False, shift=1.0)
    predicted = pipe.transformer(
        hidden_states=pipe._pack_latents(noisy, *latents.shape),
        timestep=sigma,
        guidance=torch.tensor([3.5, 3.5, 3.5]) if guidance_embeds else None,
        pooled_projections=conditioning["pooled_prompt_embeds"],
        encoder_hidden_states=conditioning["prompt_embeds"],
        txt_ids=torch.zeros(tiny.TOKENS, 3),
        img_ids=pipe._prepare_latent_image_ids(3, high // 8, wide // 8, "cpu", torch.float32),
    ).sample
    predicted = pipe._unpack_latents(predicted, high, wide, pipe.vae_scale_factor)
    expected = ((predicted - (noise - latents)) ** 2).mean()
    torch.testing.assert_close(
        own.loss(pipe, pipe.transformer, latents, conditioning, generator(7)), expected
    )


def test_aura_flow_loss_is_rectified_flow_at_logit_normal_sigmas(loaded, latents):
    pipe, own = loaded["aura_flow"]
    conditioning = own.encode_prompts(pipe, PROMPTS)
    with torch.no_grad():
        _, _, empty, _ = pipe.encode_prompt(["a cat"], max_sequence_length=tiny.TOKENS)
    torch.testing.assert_close(conditioning["prompt_embeds"][1:2], empty)
    sigma, noise, noisy = flowed(latents, logit_normal=True, shift=1.73)
    predicted = pipe.transformer(
        noisy, encoder_hidden_states=conditioning["prompt_embeds"], timestep=sigma
    ).sample
    expected = ((predicted - (noise - latents)) ** 2).mean()
    torch.testing.assert_close(
        own.loss(pipe, pipe.transformer, latents, conditioning, generator(7)), expected
    )


@pytest.mark.parametrize("checkpointed", [False, True])
def test_chroma_loss_is_rectified_flow_with_the_mask_of_the_pipelines_call(loaded, latents, checkpointed):
    pipe, own = loaded["chroma"]
    conditioning = own.encode_prompts(pipe, PROMPTS)
    embeddings, mask = conditioning.values()
    # The end and one padding token beside letters and spaces.
    assert mask.sum(dim=1).tolist() == [8, 2, 7]
    high, wide = pixels_of(latents)
    sigma, noise, noisy = flowed(latents, logit_normal=True, shift=3.0)
    predicted = pipe.transformer(
        hidden_states=pipe._pack_latents(noisy, *latents.shape),
        timestep=sigma,
        encoder_hidden_states=embeddings,
        txt_ids=torch.zeros(tiny.TOKENS, 3),
        img_ids=pipe._prepare_latent_image_ids(3, high // 8, wide // 8, "cpu", torch.float32),
        attention_mask=pipe._prepare_attention_mask(3, high * wide // 64, torch.float32, mask),
    ).sample
    predicted = pipe._unpack_latents(predicted, high, wide, pipe.vae_scale_factor)
    expected = ((predicted - (noise - latents)) ** 2).mean()
    if checkpointed:
        pipe.transformer.enable_gradient_checkpointing()
    try:
        loss = own.loss(pipe, pipe.transformer, latents, conditioning, generator(7))
    finally:
        pipe.transformer.disable_gradient_checkpointing()
    torch.testing.assert_close(loss, expected)
    without = conditioning | {"prompt_attention_mask": 0 * mask}
    assert not torch.allclose(own.loss(pipe, pipe.transformer, latents, without, generator(7)), expected)


def test_lumina2_loss_is_rectified_flow_that_counts_from_noise(loaded, latents):
    """As the training script has it: its sigma is the share of the image, and the time it goes by."""
    pipe, own = loaded["lumina2"]
    conditioning = own.encode_prompts(pipe, PROMPTS)
    sigma, noise, _ = flowed(latents, logit_normal=False, shift=6.0)
    s = sigma.view(-1, 1, 1, 1)
    predicted = pipe.transformer(
        hidden_states=(1 - s) * noise + s * latents,
        timestep=sigma,
        encoder_hidden_states=conditioning["prompt_embeds"],
        encoder_attention_mask=conditioning["prompt_attention_mask"],
    ).sample
    expected = ((predicted - (latents - noise)) ** 2).mean()
    torch.testing.assert_close(
        own.loss(pipe, pipe.transformer, latents, conditioning, generator(7)), expected
    )


def test_z_image_loss_is_rectified_flow_on_prompts_without_padding(loaded, latents):
    pipe, own = loaded["z_image"]
    conditioning = own.encode_prompts(pipe, PROMPTS)
    with torch.no_grad():
        ragged, empty = pipe.encode_prompt(list(PROMPTS), max_sequence_length=tiny.TOKENS)
    assert [len(row) for row in ragged] == [7, 2, 6]
    # What the pipeline takes for its unconditional row is that of the empty prompt.
    for row, expected in zip(own.as_arguments(conditioning)["prompt_embeds"], ragged, strict=True):
        torch.testing.assert_close(row, expected)
    torch.testing.assert_close(empty[0], ragged[1])
    sigma, noise, noisy = flowed(latents, logit_normal=False, shift=3.0)
    predicted = pipe.transformer([one[:, None] for one in noisy], 1 - sigma, ragged).sample
    expected = ((-torch.stack(predicted)[:, :, 0] - (noise - latents)) ** 2).mean()
    torch.testing.assert_close(
        own.loss(pipe, pipe.transformer, latents, conditioning, generator(7)), expected
    )


@pytest.mark.parametrize("columns", [4, 6])
@pytest.mark.parametrize("name", ["flux2_dev", "flux2_klein"])
def test_flux2_loss_is_rectified_flow_on_patches(loaded, name, columns):
    pipe, own = loaded[name]
    conditioning = own.encode_prompts(pipe, PROMPTS)
    latents = torch.randn(3, 4 * tiny.CHANNELS, 4, columns, generator=generator(9))
    sigma, noise, noisy = flowed(latents, logit_normal=False, shift=1.0)
    positions = pipe._prepare_latent_ids(noisy)
    predicted = pipe.transformer(
        hidden_states=pipe._pack_latents(noisy),
        timestep=sigma,
        guidance=torch.tensor([3.5] * 3) if name == "flux2_dev" else None,
        encoder_hidden_states=conditioning["prompt_embeds"],
        txt_ids=pipe._prepare_text_ids(conditioning["prompt_embeds"]),
        img_ids=positions,
    ).sample
    predicted = pipe._unpack_latents_with_ids(predicted, positions)
    expected = ((predicted - (noise - latents)) ** 2).mean()
    torch.testing.assert_close(
        own.loss(pipe, pipe.transformer, latents, conditioning, generator(7)), expected
    )


def test_flux2_ends_and_begins_with_the_latents_that_its_denoiser_has(loaded):
    pipe, own = loaded["flux2_klein"]
    latents = torch.randn(2, *own.latent_shape(pipe, 32), generator=generator(9))
    steps = pipe._pack_latents(latents)
    torch.testing.assert_close(own.from_steps(pipe, steps, 32), latents)
    mean, variance = (
        values.view(1, -1, 1, 1) for values in (pipe.vae.bn.running_mean, pipe.vae.bn.running_var)
    )
    ended = pipe._unpatchify_latents(latents * (variance + pipe.vae.config.batch_norm_eps).sqrt() + mean)
    torch.testing.assert_close(own.from_call(pipe, ended, 32), latents)
    # FLUX.2-dev's pipeline ends with its steps' own.
    torch.testing.assert_close(family("flux2_dev").from_call(loaded["flux2_dev"][0], steps, 32), latents)


def test_flux2_dev_shows_its_text_encoder_the_chats_that_its_pipeline_makes(loaded):
    pipe, own = loaded["flux2_dev"]
    shown: list[torch.Tensor] = []
    hook = pipe.text_encoder.register_forward_pre_hook(
        lambda _, __, named: shown.append(named["input_ids"]), with_kwargs=True
    )
    own.encode_prompts(pipe, ["a cat"])
    hook.remove()
    ((tokenizer, limit),) = own.token_limits(pipe)
    ids = tokenizer(own.shown_prompts(pipe, ["a cat"])).input_ids[0]
    assert shown[0][0, -len(ids) :].tolist() == ids
    # Begin, system message with its marks, and the prompt's five letters between their own.
    assert (len(ids), limit) == (1 + 3 + 1 + 5 + 1, tiny.TOKENS + 1)


def test_qwen_image_loss_is_rectified_flow_on_packed_latents_and_padded_prompts(loaded, latents):
    pipe, own = loaded["qwen_image"]
    conditioning = own.encode_prompts(pipe, PROMPTS)
    with torch.no_grad():
        embeddings, mask = pipe.encode_prompt(["a cat", " ", "dogs"])
    assert mask.sum(dim=1).tolist() == [10, 6, 9]
    # What the pipeline pads to the longest prompt; a space is its unconditional prompt.
    for given, expected in zip(own.as_arguments(conditioning).values(), (embeddings, mask), strict=True):
        torch.testing.assert_close(given, expected.to(given.dtype))
    sigma, noise, noisy = flowed(latents, logit_normal=False, shift=1.0)
    high, wide = pixels_of(latents)

    def expected(rows: slice, mask: torch.Tensor | None) -> torch.Tensor:
        count = len(noisy[rows])
        predicted = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy[rows, :, None], count, *latents.shape[1:]),
            timestep=sigma[rows],
            encoder_hidden_states=embeddings[rows],
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, high // 8, wide // 8)]] * count,
        ).sample
        predicted = pipe._unpack_latents(predicted, high, wide, pipe.vae_scale_factor)[:, :, 0]
        return ((predicted - (noise - latents)[rows]) ** 2).mean()

    def loss(rows: slice) -> torch.Tensor:
        return own.loss(pipe, pipe.transformer, latents, conditioning, generator(7), rows)

    torch.testing.assert_close(loss(slice(None)), expected(slice(None), mask))
    torch.testing.assert_close(loss(slice(0, 1)), expected(slice(0, 1), None))


def told_of_shape(own, pipe, make) -> tuple[torch.Size, list[torch.Tensor]]:
    """What a denoiser is first shown inside, and of what it is told those values that go by its shape."""
    denoiser, seen = own.denoiser(pipe), []
    hook = denoiser.register_forward_pre_hook(
        lambda _, given, named: seen.append((given, named)), with_kwargs=True
    )
    try:
        make()
    finally:
        hook.remove()
    given, named = seen[0]
    named = inspect.signature(denoiser.forward).bind(*given, **named).arguments
    shown = next(iter(named.values()))
    shown = shown[0] if isinstance(shown, list) else shown[0, None]
    told = [named.get("img_ids"), (named.get("img_shapes") or [None])[0]]
    told += [(named.get("added_cond_kwargs") or {}).get(key) for key in ("resolution", "aspect_ratio")]
    told += [(named.get("added_cond_kwargs") or {}).get("time_ids")]
    return shown.shape, [torch.as_tensor(one).flatten() for one in told if one is not None]


@pytest.mark.parametrize("name", NAMES)
def test_denoisers_are_told_of_a_wide_image_as_by_their_pipelines_calls(loaded, name):
    pipe, own = loaded[name]
    call = {"num_inference_steps": 2, "height": 32, "width": 64, "output_type": "latent"}
    shown = told_of_shape(
        own,
        pipe,
        lambda: pipe(
            prompt="a cat", **call, generator=generator(), **tiny.guided(name, 1.0, 1), **tiny.CALL[name]
        ),
    )
    latents = own.encode_images(pipe, torch.rand(1, 3, 32, 64, generator=generator()) * 2 - 1)
    losses = []

    def train() -> None:
        with torch.enable_grad():
            rows = own.encode_prompts(pipe, ["a cat"])
            losses.append(own.loss(pipe, own.denoiser(pipe), latents, rows, generator(7)))

    trained = told_of_shape(own, pipe, train)
    assert trained[0] == shown[0]
    for one, other in zip(trained[1], shown[1], strict=True):
        torch.testing.assert_close(one.float(), other.float())
    assert torch.isfinite(losses[0])


@pytest.mark.parametrize(("name", "most"), [("sd3", 64), ("aura_flow", 64)])
def test_aspect_buckets_longer_than_a_table_of_positions_are_refused(tiny_folder, loaded, name, most):
    own, folder = loaded[name][1], tiny_folder(name)
    # Of the square of 48 pixels the longest is 64, of that of 56 it is 72.
    own.check_buckets(folder, 48)
    with pytest.raises(InvalidConfig, match=f"at most {most} pixels.*--aspect-buckets"):
        own.check_buckets(folder, 56)
    # Where it is on another machine, nobody knows.
    own.check_buckets(folder / "elsewhere", 56)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"sd3", "aura_flow"}))
def test_other_families_have_positions_for_any_shape(tiny_folder, loaded, name):
    loaded[name][1].check_buckets(tiny_folder(name), 4096)


def widths(name: str, encoders: dict[str, dict]) -> dict[str, tuple[int, ...]]:
    """Shapes of a prompt's rows as the text encoders' configurations have them."""
    first, second, third = (encoders.get(f"text_encoder{n}", {}) for n in ("", "_2", "_3"))
    if name == "sd":
        return {"prompt_embeds": (77, first["hidden_size"])}
    if name == "sdxl":
        tokens = (77, first["hidden_size"] + second["hidden_size"])
        return {"prompt_embeds": tokens, "pooled_prompt_embeds": (second["projection_dim"],)}
    if name == "kolors":
        return {"prompt_embeds": (256, first["hidden_size"]), "pooled_prompt_embeds": (first["hidden_size"],)}
    if name == "sd3":
        pooled = first["projection_dim"] + second["projection_dim"]
        return {"prompt_embeds": (333, third["d_model"]), "pooled_prompt_embeds": (pooled,)}
    if name == "flux":
        return {"prompt_embeds": (512, second["d_model"]), "pooled_prompt_embeds": (first["hidden_size"],)}
    width = first["d_model"] if name == "pixart" else first["hidden_size"]
    return {"prompt_embeds": (300, width), "prompt_attention_mask": (300,)}


# Juggernaut's networks are SDXL's.
@pytest.mark.slow
@pytest.mark.parametrize(
    "model", sorted(path.name for path in ZOO.iterdir() if path.is_dir() and path.name != "juggernaut-x")
)
def test_objective_and_adapter_fit_the_real_models(model):
    """In every width the denoiser is the released one, of a layer or two and without its weights."""
    import diffusers

    def config(part: str) -> dict:
        return json.loads(next((ZOO / model / part).glob("*config.json")).read_text())

    own = family_of(json.loads((ZOO / model / "model_index.json").read_text()))
    part, wanted, vae = own.denoiser_attribute, config(own.denoiser_attribute), config("vae")
    depth = {"num_layers": 2, "num_single_layers": 1, "transformer_layers_per_block": 1}
    wanted |= {key: value for key, value in depth.items() if key in wanted}
    # The class that diffusers itself takes for the older name in PixArt-Sigma's folder.
    kind = {"Transformer2DModel": "PixArtTransformer2DModel"}.get(
        wanted["_class_name"], wanted["_class_name"]
    )
    noise = config("scheduler")
    encoders = {path.name: config(path.name) for path in (ZOO / model).glob("text_encoder*")}
    channels = vae.get("block_out_channels") or vae["encoder_block_out_channels"]
    meta = torch.device("meta")
    with meta:
        denoiser = getattr(diffusers, kind).from_config(wanted)
    pipe = SimpleNamespace(
        scheduler=getattr(diffusers, noise.get("_class_name", "EulerDiscreteScheduler")).from_config(noise),
        vae_scale_factor=2 ** (len(channels) - 1),
        device=meta,
        components={part: denoiser},
        **{part: denoiser},
    )
    assert 512 % own.size_unit_px(pipe) == 0
    side = 512 // pipe.vae_scale_factor
    rows = {key: torch.ones(2, *shape, device=meta) for key, shape in widths(own.name, encoders).items()}
    rows |= own.image_conditioning(pipe, [(700, 600), (512, 512)], [(512, 512)] * 2)
    parameters = attach_adapter(pipe, own, rank=4, alpha=4, generator=generator())
    loss = own.loss(
        pipe, denoiser, torch.ones(2, vae["latent_channels"], side, side, device=meta), rows, generator()
    )
    loss.backward()
    assert loss.shape == ()
    assert parameters
    assert all(parameter.grad is not None for parameter in parameters)
    adapted = {name.split(".lora_")[0] for name, _ in denoiser.named_parameters() if ".lora_" in name}
    for target in own.lora_targets:
        assert any(name.endswith(target) for name in adapted), target


@pytest.mark.parametrize(
    "options", [{"shift": 3.0}, {"shift": 1.0}, {"shift": 3.0, "use_dynamic_shifting": True}]
)
@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
def test_sigmas_lie_on_the_schedulers_own_grid(options, density):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.training_utils import compute_density_for_timestep_sampling

    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    position = compute_density_for_timestep_sampling(density, 500, 0.0, 1.0, generator=generator(1))
    expected = scheduler.sigmas[(position * 1000).long()]
    scheduler.set_timesteps(7, **({"mu": 0.7} if len(options) == 2 else {}))
    drawn = draw_sigmas(scheduler, 500, generator(1), density)
    torch.testing.assert_close(drawn, expected, atol=1e-6, rtol=0)
    assert drawn.unique().numel() > 300


def test_the_grid_of_sanas_sampler_is_the_one_that_the_training_script_makes_of_it(loaded):
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipe, _ = loaded["sana"]
    script = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    drawn = draw_sigmas(pipe.scheduler, 300, generator(1), "uniform")
    assert (drawn[:, None] - script.sigmas[None]).abs().min(dim=1).values.max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precisions_come_close_to_single_precision(loaded, tiny_folder, name, dtype):
    pixels = torch.rand(3, 3, 32, 32, generator=generator()) * 2 - 1

    def measure(pipe, own):
        with quiet_libraries():
            rows = own.encode_prompts(pipe, PROMPTS)
        encoded = own.encode_images(pipe, pixels)
        with torch.autocast("cpu", dtype=dtype, enabled=pipe is not loaded[name][0]):
            loss = own.loss(pipe, own.denoiser(pipe), encoded, rows, generator(7))
        with quiet_libraries():
            image = own.sample(
                pipe,
                {key: value[:1] for key, value in rows.items()},
                {key: value[1:2] for key, value in rows.items()},
                steps=2,
                guidance=2.0,
                generators=[generator(3)],
                resolution_px=32,
            )[0]
        assert (loss.dtype, encoded.dtype) == (torch.float32, torch.float32)
        return float(loss.detach()), np.asarray(image, dtype=float)

    loss, image = measure(*loaded[name])
    half_loss, half_image = measure(*load_pipeline(tiny_folder(name), device="cpu", dtype=dtype))
    assert half_loss == pytest.approx(loss, rel=0.02)
    assert np.abs(half_image - image).mean() < 4


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_on_a_fixed_batch(loaded, name):
    pipe, own = loaded[name]
    latents = torch.randn(3, *own.latent_shape(pipe, 32), generator=generator(9))
    conditioning = own.encode_prompts(pipe, PROMPTS)
    denoiser = own.denoiser(pipe)
    parameters = attach_adapter(pipe, own, rank=8, alpha=16, generator=generator())
    try:
        optimiser = torch.optim.AdamW(parameters, lr=1e-2)
        losses = []
        for _ in range(16):
            loss = own.loss(pipe, denoiser, latents, conditioning, generator(7))
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(float(loss.detach()))
    finally:
        detach_adapter(pipe, own)
    assert losses[-1] < 0.9 * losses[0]


def test_schedulers_of_another_process_are_refused(loaded):
    from diffusers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        EDMEulerScheduler,
        FlowMatchEulerDiscreteScheduler,
    )

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    for name, scheduler in [
        ("sd", FlowMatchEulerDiscreteScheduler()),
        ("sd", DDIMScheduler(prediction_type="sample")),
        ("sdxl", DPMSolverMultistepScheduler(**flow)),
        ("kolors", FlowMatchEulerDiscreteScheduler()),
        ("pixart", EDMEulerScheduler()),
        ("pixart_alpha", FlowMatchEulerDiscreteScheduler()),
        ("sd3", DDIMScheduler()),
        ("sana", DPMSolverMultistepScheduler()),
        ("flux", DDIMScheduler()),
        ("lumina2", DDIMScheduler()),
        ("qwen_image", DDIMScheduler()),
        ("flux2_dev", DDIMScheduler()),
        ("flux2_klein", DDIMScheduler()),
        ("chroma", DDIMScheduler()),
        ("aura_flow", DDIMScheduler()),
        ("z_image", DDIMScheduler()),
    ]:
        pipe, own = loaded[name]
        conditioning = own.encode_prompts(pipe, PROMPTS)
        latents = torch.ones(3, *own.latent_shape(pipe, 32))
        before, pipe.scheduler = pipe.scheduler, scheduler
        try:
            with pytest.raises(UnsupportedScheduler, match=type(scheduler).__name__):
                own.loss(pipe, own.denoiser(pipe), latents, conditioning, generator())
        finally:
            pipe.scheduler = before


@pytest.mark.parametrize("name", NAMES)
def test_sampling_is_the_pipelines_own_call(loaded, name):
    pipe, own = loaded[name]

    def draw(guidance: float) -> bytes:
        images = own.sample(
            pipe,
            own.encode_prompts(pipe, ["a cat"]),
            own.encode_prompts(pipe, [""]),
            steps=3,
            guidance=guidance,
            generators=[generator(3)],
            resolution_px=32,
        )
        return images[0].tobytes()

    expected = pipe(
        prompt="a cat",
        num_inference_steps=3,
        generator=generator(3),
        height=32,
        width=32,
        **tiny.guided(name, 4.0, 1),
        **tiny.CALL[name],
    ).images
    assert draw(4.0) == expected[0].tobytes() != draw(2.0)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_unet_that_is_told_guidance_is_told_it(name, latents):
    pipe = tiny.BUILDERS[name]()
    own = family(name)
    settings = {key: value for key, value in pipe.unet.config.items() if not key.startswith("_")}
    told = type(pipe.unet).from_config(settings | {"time_cond_proj_dim": 8})
    with torch.no_grad():
        told.conv_out.weight.normal_()
    conditioning = own.encode_prompts(pipe, PROMPTS)
    levels = torch.tensor([500, 3, 999])
    plain = own.predict(pipe, pipe.unet, latents, levels, conditioning, 3.0)
    assert torch.equal(plain, own.predict(pipe, pipe.unet, latents, levels, conditioning))
    pipe.unet = told
    said: list[torch.Tensor] = []
    told.register_forward_pre_hook(lambda _, __, named: said.append(named["timestep_cond"]), with_kwargs=True)
    for guidance in (None, 1.0, 3.0):
        own.predict(pipe, told, latents, levels, conditioning, guidance)
    # What is embedded is the scale less 1; without one, the default of diffusers' pipeline of such models.
    weights = torch.tensor([EMBEDDED_GUIDANCE - 1, 0.0, 2.0])
    expected = pipe.get_guidance_scale_embedding(weights, embedding_dim=8)
    assert torch.equal(torch.stack(said), expected[:, None].expand(3, 3, 8))
    call = inspect.signature(diffusers.LatentConsistencyModelPipeline.__call__).parameters
    assert call["guidance_scale"].default == EMBEDDED_GUIDANCE
    assert call["num_inference_steps"].default == STUDENT_STEPS
