"""Makes image_reward.json: what the authors' own code says of a small ImageReward with weights from a seed.

Run once, with the libraries that the code was written for on the path, and not by the tests:

    pip install --no-deps --target LIBRARIES image-reward==1.5 timm==0.6.13 fairscale==0.4.13 \
        transformers==4.30.2 tokenizers==0.13.3 huggingface_hub==0.16.4
    PYTHONPATH=LIBRARIES python tests/training/data/make_image_reward.py LIBRARIES
"""

from __future__ import annotations

import json
import sys
import tempfile
import types
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parent
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "cat", "dog", "##s", ","]
PROMPTS = ["a red cat", "a blue dog, a cat", "red dogs", "unknown words " * 30]
SIZES = [(32, 32), (48, 40), (31, 57), (32, 64)]
MED = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "type_vocab_size": 2,
    "vocab_size": len(WORDS),
    "encoder_width": 64,
    "add_cross_attention": True,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Weights from a seed, in the order of their names; of a generator whose numbers never change."""
    generator = np.random.RandomState(5)
    drawn = {}
    for name in sorted(shapes):
        value = generator.standard_normal(shapes[name])
        drawn[name] = torch.from_numpy(0.1 * value + (1.0 if "norm" in name.lower() else 0.0)).float()
    return drawn


def images() -> list[Image.Image]:
    """Noise of several sizes."""
    generator = np.random.RandomState(6)
    return [
        Image.fromarray(generator.randint(0, 256, (height, width, 3)).astype(np.uint8))
        for width, height in SIZES
    ]


def main(libraries: Path) -> None:
    """Build the network of the authors' classes, and write what it says."""
    # The package's own __init__ imports a trainer that needs more libraries.
    for name in ("ImageReward", "ImageReward.models"):
        module = types.ModuleType(name)
        module.__path__ = [str(libraries / name.replace(".", "/"))]
        sys.modules[name] = module
    med = import_module("ImageReward.models.BLIP.med")
    vit = import_module("ImageReward.models.BLIP.vit")
    reward = import_module("ImageReward.ImageReward")
    from transformers import BertConfig, BertTokenizer

    blip = torch.nn.Module()
    blip.visual_encoder = vit.VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1)
    blip.text_encoder = med.BertModel(config=BertConfig.from_dict(MED), add_pooling_layer=False)
    network = reward.ImageReward.__new__(reward.ImageReward)
    torch.nn.Module.__init__(network)
    network.device, network.blip = "cpu", blip
    network.preprocess, network.mlp = reward._transform(32), reward.MLP(32)
    network.mean, network.std = 0.16717362830052426, 1.0333394966054072
    own = {
        name: list(value.shape) for name, value in network.state_dict().items() if value.is_floating_point()
    }
    network.load_state_dict(weights(own), strict=False)
    network.eval()
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder, "vocab.txt")
        vocabulary.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
        blip.tokenizer = BertTokenizer(str(vocabulary))
    with torch.no_grad():
        rewards = [network.score(prompt, image) for prompt, image in zip(PROMPTS, images(), strict=True)]
    written = {"shapes": own, "rewards": rewards}
    (HERE / "image_reward.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
