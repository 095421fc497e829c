"""Chroma: FLUX.1's transformer with guidance and pooled prompt taken out, and padding masked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from matchgraph.training.pipelines.families.base import number_shift
from matchgraph.training.pipelines.families.flux import ATTENTION_AND_FEED_FORWARD
from matchgraph.training.pipelines.families.packed import Packed, pack, positions, unpack
from matchgraph.training.pipelines.families.rows import Conditioning

if TYPE_CHECKING:
    import torch


class Chroma(Packed):
    """`ChromaPipeline`: Chroma1-HD and Chroma1-Base.

    The prompt's mask keeps one padding token. Training has it as the pipeline's call does, in the type of the
    embeddings: torch adds such a mask to attention's logits, so it favours what it keeps rather than hiding
    the rest.

    Source:
        Objective of kohya's `flux_train_network.py` with `--model_type chroma` as its guide recommends
        (`--timestep_sampling sigmoid --model_prediction_type raw --guidance_scale 0`), on the scheduler's
        grid; LoRA layers are those of diffusers' `train_dreambooth_lora_flux.py`.
    """

    name = "chroma"
    pipeline_class = "ChromaPipeline"
    denoiser_attribute = "transformer"
    lora_targets = ATTENTION_AND_FEED_FORWARD
    default_steps = 35
    default_guidance = 5.0
    guided_apart = True
    flow_matching = True
    # The default of the pipeline's call, and the most that it takes.
    max_prompt_tokens = 512
    density = "logit_normal"

    def prepare(self, pipe: Any) -> None:
        number_shift(pipe)

    def _encoded(self, pipe: Any, prompts: list[str]) -> Conditioning:
        embeddings, _, mask, *_ = pipe.encode_prompt(
            prompts,
            device=pipe.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._prompt_tokens(pipe),
        )
        return {"prompt_embeds": embeddings, "prompt_attention_mask": mask}

    def predict(
        self,
        pipe: Any,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        levels: torch.Tensor,
        conditioning: Conditioning,
        guidance: float | None = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """See `Family.predict`."""
        import torch

        count, _, height, width = noisy.shape
        embeddings, mask = conditioning["prompt_embeds"], conditioning["prompt_attention_mask"]
        packed = pack(noisy)
        mask = torch.cat([mask, mask.new_ones(count, packed.shape[1])], dim=1)
        with _masked_when_checkpointed(pipe.transformer, mask):
            predicted = denoiser(
                hidden_states=packed,
                timestep=levels,  # the transformer itself scales it by the length of the grid
                encoder_hidden_states=embeddings,
                txt_ids=torch.zeros(embeddings.shape[1], 3, device=noisy.device),
                img_ids=positions(height // 2, width // 2).to(noisy.device),
                attention_mask=mask,
                return_dict=False,
            )[0]
        return unpack(predicted, height, width)


@contextmanager
def _masked_when_checkpointed(transformer: Any, mask: torch.Tensor) -> Iterator[None]:
    """Hand single blocks the mask inside, which diffusers leaves out where gradients are checkpointed."""
    if not transformer.gradient_checkpointing:
        yield
        return
    own, single = (
        transformer._gradient_checkpointing_func,
        set(map(id, transformer.single_transformer_blocks)),
    )

    def checkpoint(block: Any, *inputs: Any) -> Any:
        return own(block, *inputs, mask) if id(block) in single else own(block, *inputs)

    transformer._gradient_checkpointing_func = checkpoint
    try:
        yield
    finally:
        transformer._gradient_checkpointing_func = own


FAMILY = Chroma()
