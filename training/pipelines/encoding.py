"""Encoding a dataset once: what the VAE and the text encoders say of it, out of a cache where it is there."""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matchgraph.training.buckets import Shape, buckets, grouped, kept, nearest
from matchgraph.training.errors import NonFiniteEncoding, memory_of
from matchgraph.training.files import file_hash, folders_hash, json_hash
from matchgraph.training.images import CaptionedImage, covering, list_captioned_images, load_rgb
from matchgraph.training.pipelines.cache import CacheUse
from matchgraph.training.pipelines.loading import (
    LoadedPipeline,
    equal_weights,
    quiet_libraries,
    read_model_index,
)
from matchgraph.training.pipelines.placement import placed
from matchgraph.training.seeds import seeded_generator

if TYPE_CHECKING:
    import numpy as np
    import torch

    from matchgraph.training.pipelines.families.rows import Conditioning

# Raised when an entry's content would change for the same facts, so that older entries are not found.
CACHE_FORMAT = 1
PROMPT_BATCH = 16
# Images encoded at a time: 16 at 512 pixels a side and fewer of larger ones, which bounds the VAE's memory.
ENCODED_PIXELS = 16 * 512 * 512
LARGEST_IMAGE_BATCH = 64
DECODING_THREADS = 4
# New versions may round otherwise, so what older ones encoded is encoded again.
ENCODING_PACKAGES = ("torch", "diffusers", "transformers", "pillow")
ASPECT_HANDLING = "shorter side scaled to resolution_px, centre square kept"
BUCKET_HANDLING = "scaled to cover the bucket of the nearest aspect, centre kept"


class Rows:
    """Rows of equally named tensors, in shards that may be mapped from files instead of lying in memory.

    Args:
        shards: each with the same names.
        numbers: of the shards' rows, one after another; as they come by default.
    """

    def __init__(
        self, shards: Sequence[Mapping[str, torch.Tensor]], numbers: Sequence[int] | None = None
    ) -> None:
        self._shards = list(shards)
        places = [
            (shard, row)
            for shard, tensors in enumerate(self._shards)
            for row in range(len(next(iter(tensors.values()))))
        ]
        numbers = range(len(places)) if numbers is None else numbers
        self._places = dict(zip(numbers, places, strict=True))

    def __len__(self) -> int:
        return len(self._places)

    def pick(self, rows: Sequence[int], device: torch.device | None = None) -> dict[str, torch.Tensor]:
        """Gather some rows, of one shape, in the order given, on a device."""
        import torch

        places = [self._places[row] for row in rows]
        return {
            name: torch.stack([self._shards[shard][name][row] for shard, row in places]).to(device)
            for name in self._shards[0]
        }


@dataclass(frozen=True, eq=False)
class EncodedDataset:
    """A dataset as the denoiser is trained on it: every image and every different caption encoded once.

    Attributes:
        latents: a row `latents` per image, float32, (channels, h, w); with aspect buckets not all of one
            shape.
        conditioning: a row per different caption; row 0 is the empty one.
        image_conditioning: a row per image of inputs that depend on the image itself; often nothing.
        caption_rows: the row of each image's caption.
        captioned: how many images have a caption.
        truncated: how many images' captions lose words to a text encoder's length.
        aspect: how images were made squares, or got the shapes of their buckets: `handling`, the number
            `cropped`, the mean share of an image's pixels that was cut (`pixels_cut`), the number `enlarged`,
            and with `buckets` how many images are in each, by its width and height.
        shapes: the bucket of each image, by its width and height in pixels; None where all are squares.
    """

    latents: Rows
    conditioning: Rows
    image_conditioning: Conditioning
    caption_rows: list[int]
    captioned: int
    truncated: int
    aspect: dict[str, Any]
    shapes: Sequence[Shape] | None = None

    def __len__(self) -> int:
        return len(self.caption_rows)

    def batch(
        self, picked: Sequence[int], kept: Sequence[bool], device: torch.device | None = None
    ) -> tuple[torch.Tensor, Conditioning]:
        """Gather images with their captions.

        Args:
            picked: numbers of the images, which are of one shape.
            kept: for each, whether its own caption comes with it, or the empty one.
            device: where to.

        Returns:
            Latents, (n, channels, h, w), and the conditioning's n rows.
        """
        rows = [self.caption_rows[i] if keep else 0 for i, keep in zip(picked, kept, strict=True)]
        of_images = {
            name: values[list(picked)].to(device) for name, values in self.image_conditioning.items()
        }
        latents = self.latents.pick(picked, device)["latents"]
        return latents, self.conditioning.pick(rows, device) | of_images

    def parts(self, size: int) -> Iterator[Sequence[int]]:
        """Numbers of all images, at most so many at a time, and each time of one shape."""
        groups = [range(len(self))] if self.shapes is None else grouped(self.shapes).values()
        for group in groups:
            yield from (group[first : first + size] for first in range(0, len(group), size))


def dataset_hash(images: Sequence[CaptionedImage]) -> str:
    """SHA-256 over the contents and captions of the images to train on, in order, wherever the files lie."""
    return json_hash([[file_hash(image.path), image.caption] for image in images if not image.held_out])


def encode_dataset(
    loaded: LoadedPipeline,
    dataset_folder: str | os.PathLike[str],
    images: Sequence[CaptionedImage] | None = None,
    *,
    resolution_px: int,
    seed: int,
    use: CacheUse | None = None,
    aspect_buckets: bool = False,
) -> EncodedDataset:
    """Decode, scale and encode images and captions; neither VAE nor text encoder is used after.

    Images that the dataset holds out are left alone.

    Args:
        loaded: the pipeline that encodes.
        dataset_folder: captioned images; one without a caption is trained on with the empty prompt.
        images: those of the folder, where they were listed before; listed now by default.
        resolution_px: side of the squares that the images are made.
        seed: of the draws from the VAE's posterior; an image's draw depends on it and the image alone.
        use: the cache; none by default, where all encodings are held in memory.
        aspect_buckets: give each image the shape of `training.buckets.buckets` that is nearest to its own
            instead.

    Raises:
        BadDataset: the folder is faulty.
        BadImage: one of its images is.
        InvalidConfig: the resolution does not suit the pipeline.
        NonFiniteEncoding: the VAE fails at the pipeline's precision.
    """
    loaded.check_resolution(resolution_px)
    use = use or CacheUse(None)
    listed = list_captioned_images(dataset_folder) if images is None else images
    images = [image for image in listed if not image.held_out]
    shapes: list[Shape] = [(resolution_px, resolution_px)] * len(images)
    if aspect_buckets:
        loaded.family.check_buckets(loaded.folder, resolution_px)
        among = buckets(resolution_px, loaded.family.size_unit_px(loaded.pipe))
        shapes = [nearest(size, among) for size in _sizes(images, use)]
    latents, sizes = _encode_images(loaded, images, shapes, resolution_px, seed, use)
    captions = [image.caption or "" for image in images]
    row_of = {caption: row for row, caption in enumerate(dict.fromkeys(["", *captions]))}
    with quiet_libraries():
        truncated = loaded.family.count_truncated(loaded.pipe, captions)
    return EncodedDataset(
        latents=latents,
        conditioning=encode_prompts(loaded, list(row_of), use),
        image_conditioning={
            name: values.cpu()
            for name, values in loaded.family.image_conditioning(loaded.pipe, sizes, shapes).items()
        },
        caption_rows=[row_of[caption] for caption in captions],
        captioned=sum(image.caption is not None for image in images),
        truncated=truncated,
        aspect=_aspect(sizes, shapes) | (_of_buckets(shapes) if aspect_buckets else {}),
        shapes=shapes if aspect_buckets else None,
    )


def encode_prompts(loaded: LoadedPipeline, prompts: Sequence[str], use: CacheUse | None = None) -> Rows:
    """Encode any number of prompts, a batch at a time; row i belongs to prompt i.

    Args:
        loaded: the pipeline that encodes.
        prompts: at least one.
        use: the cache; none by default, where all embeddings are held in memory.
    """
    use = use or CacheUse(None)
    # Only asked for where it is needed: it reads all of the text encoders' weights.
    facts = _facts(loaded, "prompts", _text_folders(loaded)) if use.active else {}
    # Which no file of the model says.
    if (limit := loaded.family.prompt_limit(loaded.folder)) < math.inf:
        facts |= {"prompt_tokens": limit}
    shards = []
    encoding = False
    # The libraries warn of each batch with long captions; the record has their number instead.
    with quiet_libraries(), ExitStack() as there, memory_of("encoding text"):
        for start in range(0, len(prompts), PROMPT_BATCH):
            batch = list(prompts[start : start + PROMPT_BATCH])
            shard = use.fetch(facts | {"prompts": batch})
            if shard is None:
                if not encoding:
                    there.enter_context(placed(loaded, "text"))
                    encoding = True
                encoded = loaded.family.encode_prompts(loaded.pipe, batch)
                shard = {key: value.cpu().contiguous() for key, value in encoded.items()}
                shard = use.store(facts | {"prompts": batch}, shard)
            shards.append(shard)
    return Rows(shards)


def same_text_encoding(one: LoadedPipeline, other: LoadedPipeline) -> bool:
    """Whether two pipelines encode prompts equally: same text encoders, tokenizers and arithmetic."""
    return _encoding_of_text(one) == _encoding_of_text(other) and all(
        equal_weights(getattr(one.pipe, name), getattr(other.pipe, name))
        for name in _parts(one, "text_encoder")
    )


def _encoding_of_text(loaded: LoadedPipeline) -> list[Any]:
    """Everything that determines the encoding of a prompt, except the encoders' weights."""
    encoders, tokenizers = _parts(loaded, "text_encoder"), _parts(loaded, "tokenizer")
    configs = [loaded.folder / name / "config.json" for name in encoders]
    return [
        (loaded.family.name, loaded.precision, loaded.device),
        loaded.pipe.config.get("force_zeros_for_empty_prompt"),
        folders_hash(loaded.folder, tokenizers),
        [(path.parent.name, file_hash(path)) for path in configs],
    ]


def _parts(loaded: LoadedPipeline, kind: str) -> list[str]:
    """Names of the components of a kind that the pipeline has."""
    return sorted(n for n, part in loaded.pipe.components.items() if n.startswith(kind) and part is not None)


class PromptRows:
    """Prompts as a pipeline's text encoders have them, each once, with the empty one.

    Encoders round by the shape of their batch, so to the last bit a prompt's row depends on the others.

    Args:
        loaded: the pipeline that encodes.
        prompts: in any number.
        use: as for `encode_prompts`.
    """

    def __init__(self, loaded: LoadedPipeline, prompts: Sequence[str], use: CacheUse | None = None) -> None:
        different = list(dict.fromkeys(["", *prompts]))
        self._row_of = {prompt: row for row, prompt in enumerate(different)}
        self._rows = encode_prompts(loaded, different, use)

    def pick(self, prompts: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
        """The rows of some of the prompts, in the order given, on a device."""
        return self._rows.pick([self._row_of[prompt] for prompt in prompts], device)


def images_together(resolution_px: int) -> int:
    """How many images of this side the VAE encodes together."""
    return max(1, min(LARGEST_IMAGE_BATCH, ENCODED_PIXELS // resolution_px**2))


def _sizes(images: Sequence[CaptionedImage], use: CacheUse) -> list[Shape]:
    """Width and height of all images, upright; files say them in too many ways to be read undecoded."""
    import torch

    facts: dict[str, Any] = {"what": "sizes"}
    if use.active:
        versions = {"pillow": importlib.metadata.version("pillow")}
        hashes = [file_hash(image.path) for image in images]
        facts |= {"format": CACHE_FORMAT, "versions": versions, "images": hashes}
    found = use.fetch(facts)
    if found is None:
        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            sizes = list(pool.map(lambda image: load_rgb(image.path).size, images))
        found = use.store(facts, {"sizes": torch.tensor(sizes, dtype=torch.int32)})
    return [(width, height) for width, height in found["sizes"].tolist()]


def _encode_images(
    loaded: LoadedPipeline,
    images: Sequence[CaptionedImage],
    shapes: Sequence[Shape],
    resolution_px: int,
    seed: int,
    use: CacheUse,
) -> tuple[Rows, list[Shape]]:
    """Latents of all images, and the width and height of each before it got its shape."""
    import numpy as np
    import torch

    facts = _facts(loaded, "images", ["vae"]) if use.active else {}
    facts |= {"seed": seed}
    # As many as of squares, which are the largest.
    size = images_together(resolution_px)
    batches = [
        (shape, group[start : start + size])
        for shape, group in grouped(shapes).items()
        for start in range(0, len(group), size)
    ]
    hashes = [[file_hash(images[number].path) for number in batch] for _, batch in batches]
    keys = [
        facts | _of_shape(shape) | {"images": names}
        for (shape, _), names in zip(batches, hashes, strict=True)
    ]
    # A batch is one entry: encoders round by the shape of their batch, so an image by itself would not have
    # the same latents in another one, and a run would depend on what the cache held.
    shards = [use.fetch(key) for key in keys]
    missing = [number for number, shard in enumerate(shards) if shard is None]
    wanted = [([images[one].path for one in batch], shape) for shape, batch in (batches[n] for n in missing)]
    there = placed(loaded, "vae") if missing else nullcontext()
    with there, memory_of("encoding images"):
        for number, decoded in zip(missing, _decoded_ahead(wanted), strict=True):
            pixels = torch.from_numpy(np.stack([shown for shown, _ in decoded]))
            latents = loaded.family.encode_images(
                loaded.pipe,
                pixels.permute(0, 3, 1, 2).float() / 127.5 - 1,
                [seeded_generator("posterior", seed, name) for name in hashes[number]],
            )
            if not torch.isfinite(latents).all():
                raise NonFiniteEncoding(
                    f"The VAE of {loaded.folder} gives infinite values in {loaded.precision}; "
                    "train in bf16 or fp32."
                )
            shard = {
                "latents": latents.cpu().contiguous(),
                "sizes": torch.tensor([size for _, size in decoded], dtype=torch.int32),
            }
            shards[number] = use.store(keys[number], shard)
    complete = [shard for shard in shards if shard is not None]
    numbers = [number for _, batch in batches for number in batch]
    found = [(int(width), int(height)) for shard in complete for width, height in shard["sizes"].tolist()]
    sizes = dict(zip(numbers, found, strict=True))
    latents = Rows([{"latents": shard["latents"]} for shard in complete], numbers)
    return latents, [sizes[number] for number in range(len(images))]


def _of_shape(shape: Shape) -> dict[str, int]:
    """What an entry's key says of the images' shape."""
    width, height = shape
    return {"resolution_px": width} if width == height else {"width_px": width, "height_px": height}


Decoded = tuple["np.ndarray", Shape]


def _decoded_ahead(batches: Sequence[tuple[Sequence[Path], Shape]]) -> Iterator[list[Decoded]]:
    """Images in their batch's shape and their own sizes, a batch at a time; the next is decoded ahead."""
    ahead: deque[list[Future[Decoded]]] = deque()
    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        try:
            for paths, shape in batches:
                ahead.append([pool.submit(_decode, path, shape) for path in paths])
                if len(ahead) > 1:
                    yield [future.result() for future in ahead.popleft()]
            while ahead:
                yield [future.result() for future in ahead.popleft()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _decode(path: Path, shape: Shape) -> Decoded:
    import numpy as np

    image = load_rgb(path)
    return np.asarray(covering(image, shape)), image.size


def _text_folders(loaded: LoadedPipeline) -> list[str]:
    others = {loaded.family.denoiser_attribute, "vae", "scheduler"}
    return sorted(name for name in read_model_index(loaded.folder) if name not in others)


def _facts(loaded: LoadedPipeline, what: str, folders: Sequence[str]) -> dict[str, Any]:
    """All that encodings depend on beside what is encoded."""
    return {
        "format": CACHE_FORMAT,
        "what": what,
        "family": loaded.family.name,
        "weights": folders_hash(loaded.folder, folders),
        "index": file_hash(loaded.folder / "model_index.json"),
        "precision": loaded.precision,
        "device": loaded.device.type,
        "versions": {name: importlib.metadata.version(name) for name in ENCODING_PACKAGES},
    }


def _aspect(sizes: Sequence[Shape], shapes: Sequence[Shape]) -> dict[str, Any]:
    left = [kept(size, shape) for size, shape in zip(sizes, shapes, strict=True)]
    shares = [1 - math.prod(part) / math.prod(size) for part, size in zip(left, sizes, strict=True)]
    return {
        "handling": ASPECT_HANDLING,
        "cropped": sum(share > 0 for share in shares),
        "pixels_cut": sum(shares) / len(shares),
        "enlarged": sum(part[0] < shape[0] for part, shape in zip(left, shapes, strict=True)),
    }


def _of_buckets(shapes: Sequence[Shape]) -> dict[str, Any]:
    counts = {f"{width}x{height}": len(group) for (width, height), group in sorted(grouped(shapes).items())}
    return {"handling": BUCKET_HANDLING, "buckets": counts}
