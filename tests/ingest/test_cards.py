"""The model card: a header that the hub's tools read, code that runs, and names that are only text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from matchgraph.drawing import Drawing
from matchgraph.ingest.runs.cards import write_model_card
from tests.ingest.conftest import write_images
from tests.ingest.records import HOSTILE, record
from tests.training import tiny


def text_and_tags(markdown: str) -> tuple[str, list[str]]:
    """What a reader of the rendered card sees, and the elements that it is made of."""
    text, tags = [], []
    reader = HTMLParser()
    reader.handle_data = text.append  # type: ignore[method-assign]
    reader.handle_starttag = lambda tag, _: tags.append(tag)  # type: ignore[method-assign]
    reader.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))
    return "".join(text), tags


def test_the_hub_s_tools_read_the_header(tmp_path: Path) -> None:
    card = ModelCard.load(write_model_card(tmp_path, record("stabilityai/sdxl", "my cats")))
    assert card.data.base_model == "stabilityai/sdxl"
    assert card.data.library_name == "diffusers"
    assert card.data.pipeline_tag == "text-to-image"
    assert {"lora", "diffusers", "text-to-image"} <= set(card.data.tags)
    assert card.data.license is None
    assert [(r.metric_type, r.metric_value, r.dataset_name) for r in card.data.eval_results] == [
        ("clip_fid", 12.5, "my cats"),
        ("kid", 0.012, "my cats"),
    ]


def test_scores_and_training_are_told(tmp_path: Path) -> None:
    text, tags = text_and_tags(ModelCard.load(write_model_card(tmp_path, record())).text)
    for fact in ("clip_fid", "−50.0 %", "0.0120 ± 0.0021", "78f51468e0451540", "resolution_px", "2.15.0"):
        assert fact in text
    assert tags.count("table") == 2
    assert "name a licence" in text
    # Where the training machine keeps things is nobody's business.
    assert "/images/cats" not in text


def test_names_are_only_text(tmp_path: Path) -> None:
    plain = ModelCard.load(write_model_card(tmp_path, record("a b", "c d")))
    card = ModelCard.load(write_model_card(tmp_path, record(HOSTILE, HOSTILE)))
    assert card.data.base_model is None
    assert card.data.eval_results[0].dataset_name == HOSTILE
    text, tags = text_and_tags(card.text)
    assert tags == text_and_tags(plain.text)[1]
    # Heading, first sentence, and the table: twice each.
    assert text.count(HOSTILE) == 6


@pytest.mark.parametrize(("name", "method"), [("sd", "lora"), ("flux", "lora"), ("sd3", "full")])
def test_the_code_draws_what_the_run_drew(
    name: str,
    method: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,  # noqa: ARG001
) -> None:
    from matchgraph.training.config import FineTuneConfig, SampleConfig
    from matchgraph.training.sampling.generate import image_generator, sample_images
    from matchgraph.training.tune.finetune import fine_tune

    base = tiny.save(name, tmp_path / "base")
    # Every real SD3 and FLUX autoencoder has this number, without which their pipelines do not decode.
    vae = base / "vae" / "config.json"
    values = json.loads(vae.read_text())
    if "shift_factor" in values:
        vae.write_text(json.dumps({**values, "shift_factor": 0.1}))
    images = write_images(tmp_path / "images", 0, ["a cat", "b"])
    size = tiny.RESOLUTION_PX
    config = FineTuneConfig(
        steps=2,
        batch_size=2,
        learning_rate=0.01,
        rank=2,
        alpha=2,
        resolution_px=size,
        device="cpu",
        method=method,
    )
    trained = fine_tune(base, images, config, tmp_path / "run")
    drawn = SampleConfig(n=1, drawing=Drawing(2, 2.0, resolution_px=size), device="cpu")
    expected = sample_images(base, trained.adapter, ["a cat"], drawn)[0]

    told = record(str(base))
    told["asked"] |= {"model_folder": str(base), "resolution_px": size, "guidance": 2.0, "method": method}
    told["with"] = {"attempt": 1, "prompts": ["a cat"], **trained.to_dict()}
    card = write_model_card(trained.adapter.parent, told).read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    monkeypatch.chdir(trained.adapter.parent)
    names: dict[str, Any] = {"generator": image_generator(drawn.seed, 0)}
    exec(code[1].replace("image = pipe(", "image = pipe(generator=generator, "), names)
    difference = [abs(a - b) for a, b in zip(expected.tobytes(), names["image"].tobytes(), strict=True)]
    assert max(difference) <= 1


@pytest.mark.parametrize(("guidance_embeds", "said"), [(True, False), (False, True)])
def test_the_code_shows_schnell_as_many_tokens_as_the_run_did(
    tmp_path: Path, guidance_embeds: bool, said: bool
) -> None:
    for part, config in (
        ("transformer/config", {"guidance_embeds": guidance_embeds}),
        ("tokenizer_2/tokenizer_config", {"model_max_length": 512}),
    ):
        file = tmp_path / "model" / f"{part}.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(config))
    made = record()
    made["asked"]["model_folder"] = str(tmp_path / "model")
    made["with"]["used"]["family"] = "flux"
    card = write_model_card(tmp_path, made).read_text(encoding="utf-8")
    assert ("max_sequence_length=256" in card) == said
