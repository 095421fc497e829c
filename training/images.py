"""Captioned image folders and single images, refused early and by name where they cannot be used."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from matchgraph.training.buckets import Shape, kept
from matchgraph.training.captions import SPLITS, CaptionReader, concept_of
from matchgraph.training.dataset_files import FORMATS, files_in
from matchgraph.training.errors import BadDataset, BadImage

if TYPE_CHECKING:
    from PIL import Image

# A file of a few kilobytes can unpack to gigabytes; this is four times a 16-megapixel photograph.
MAX_PIXELS = 64_000_000
# What decoders raise on damaged files, beside OSError.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks of text and colour profiles; Pillow refuses a PNG with large ones whole.
PNG_METADATA = frozenset({b"iCCP", b"tEXt", b"zTXt", b"iTXt"})


@dataclass(frozen=True)
class CaptionedImage:
    """An image file with its caption, None where it has none.

    Attributes:
        path: the file.
        caption: its text.
        held_out: whether fine-tuning must not see it.
    """

    path: Path
    caption: str | None
    held_out: bool = False


@dataclass(frozen=True)
class ImageListing:
    """The images of a dataset folder.

    Attributes:
        images: with their captions.
        notes: what the folder holds beside them and is not read, one sentence each.
    """

    images: tuple[CaptionedImage, ...]
    notes: tuple[str, ...]

    def all_notes(self) -> tuple[str, ...]:
        """The notes, and that no image has a caption, if so."""
        if any(image.caption for image in self.images):
            return self.notes
        return (*self.notes, f"none of its {len(self.images)} images has a caption.")


@dataclass(frozen=True)
class DatasetFolder(os.PathLike[str]):
    """A dataset folder together with the column of its metadata that holds the captions.

    Attributes:
        folder: the folder.
        caption_column: None where the column is one of `captions.CAPTION_COLUMNS`.
    """

    folder: Path
    caption_column: str | None = None

    def __fspath__(self) -> str:
        return os.fspath(self.folder)

    def __str__(self) -> str:
        return os.fspath(self.folder)


def list_captioned_images(folder: str | os.PathLike[str]) -> list[CaptionedImage]:
    """List the images of a dataset folder with their captions; see `read_image_folder`."""
    return list(read_image_folder(folder).images)


def read_image_folder(folder: str | os.PathLike[str]) -> ImageListing:
    """List the images of a dataset folder with their captions, and what else it holds.

    Captions come from `metadata.jsonl` or `metadata.csv` (Hugging Face imagefolder: one object or row for
    each image with `file_name`, relative to the metadata file, and the caption in `text`, `caption` or
    `prompt`). Images that no metadata file covers take their caption from a file of the same stem: `.txt`,
    `.caption` or `.json`, and else from their folder's name, where all subfolders are named as for kohya's
    scripts (`10_sks dog`). A `split` other than "train", or a subfolder named after such a split, holds
    images out.

    Args:
        folder: the dataset, a `DatasetFolder` to name the column of the captions. Images may be in
            subfolders, and a file may be a link, as in download caches. Hidden files and folders are left
            out.

    Returns:
        The images, in the order of the metadata files and else sorted by path; they are not opened. The notes
        name what was found and not read.

    Raises:
        BadDataset: no such folder, no images, a link to a folder, captions that cannot be read, or a faulty
            metadata line (the message has its number).
        BadImage: a file is in an image format that is not read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadDataset(f"{root} is not a folder; give a folder of images.")
    found = files_in(root)
    reader = CaptionReader(folder.caption_column if isinstance(folder, DatasetFolder) else None)
    listed: dict[Path, tuple[CaptionedImage, str]] = {}
    for metadata in found.metadata:
        for row in reader.metadata(metadata):
            where = f"{metadata}, line {row.line}"
            path = _plain(metadata.parent / row.name)
            if path in listed:
                raise BadDataset(f"{where}: {row.name!r} was already listed in {listed[path][1]}.")
            if not path.is_file():
                raise BadDataset(f"{where}: there is no file {row.name!r} in the folder.")
            held_out = _in_held_out_folder(root, path) if row.held_out is None else row.held_out
            image = CaptionedImage(metadata.parent / row.name, row.caption, held_out)
            place = f"line {row.line}" if len(found.metadata) == 1 else where
            listed[path] = image, place
    covering = {metadata.parent: metadata for metadata in found.metadata}
    images = [image for image, _ in listed.values()]
    concepts = {path: _concept(path.relative_to(root)) for path in found.images}
    named = bool(concepts) and all(concepts.values())
    notes: list[str] = []
    if named:
        notes.append(
            "its subfolders' names begin with repeats, which are not applied: each image counts once"
        )
    used: set[Path] = set()
    forgotten: dict[Path, list[Path]] = {}
    for path in found.images:
        if _plain(path) in listed:
            continue
        above = next((covering[parent] for parent in path.parents if parent in covering), None)
        if above is not None and root in (above.parent, *above.parent.parents):
            forgotten.setdefault(above, []).append(path)
            continue
        caption, files = reader.from_files(found.caption_files(path))
        used.update(files)
        if caption is None and named:
            caption = concepts[path]
        images.append(CaptionedImage(path, caption, _in_held_out_folder(root, path)))
    for metadata, paths in forgotten.items():
        raise BadDataset(
            f"{metadata} does not list {paths[0].relative_to(metadata.parent)}"
            f"{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}; "
            "add a line for every image, or remove the file."
        )
    if not images:
        raise BadDataset(found.no_images())
    if all(image.held_out for image in images):
        raise BadDataset(f'{root} holds every image out of training; give some the split "train".')
    return ImageListing(
        tuple(images), (*notes, *reader.notes(), *found.unread(used.union(image.path for image in images)))
    )


def _concept(inside: Path) -> str | None:
    return concept_of(inside.parts[0]) if len(inside.parts) > 1 else None


def _plain(path: Path) -> Path:
    return Path(os.path.normpath(path))


def _in_held_out_folder(root: Path, path: Path) -> bool:
    """Whether an image is in a subfolder that is named after a split other than "train"."""
    inside = _plain(path).relative_to(_plain(root)).parts
    return len(inside) > 1 and not SPLITS.get(inside[0].lower(), True)


def load_rgb(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image whole, into 8-bit RGB.

    EXIF rotation is applied, transparency is laid over white, CMYK and palettes are converted, 16 bits are
    scaled to 8. Other metadata is dropped, however large.

    Args:
        path: a file in one of FORMATS, recognised by its content rather than its name.
        max_pixels: refuse larger images before they are unpacked.

    Returns:
        An image of mode RGB that holds no open file.

    Raises:
        BadImage: the file is missing, empty, of another format, animated, too large, truncated or corrupt.
    """
    from PIL import Image, UnidentifiedImageError

    source = Path(path)
    try:
        if source.stat().st_size == 0:
            raise BadImage(f"{source} is empty.")
        try:
            return _decoded(source, source, max_pixels)
        except ValueError:
            # Pillow refuses a PNG with large text or a large colour profile, whose pixels may be sound.
            stripped = _without_png_metadata(source)
            if stripped is None:
                raise
            return _decoded(source, stripped, max_pixels)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(
            f"{source} is not an image in one of the formats {', '.join(FORMATS)}, or its header is damaged."
        ) from None
    except Image.DecompressionBombError:
        raise BadImage(
            f"{source} has more than the {max_pixels:,} pixels allowed. Make it smaller."
        ) from None
    except DECODING_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadImage(f"{source} cannot be decoded: {reason or type(error).__name__}.") from None


def _decoded(source: Path, stream: Path | BinaryIO, max_pixels: int) -> Image.Image:
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        # The limit below is stricter, and an error.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(stream, formats=FORMATS)
    with opened as image:
        if image.width * image.height > max_pixels:
            raise BadImage(
                f"{source} has {image.width} x {image.height} pixels, more than the {max_pixels:,} "
                "allowed. Make it smaller."
            )
        # JPEGs of some cameras carry further pictures behind the first (MPO); those are no animations.
        if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
            raise BadImage(f"{source} is animated ({frames} frames); give still images.")
        if image.mode == "F":
            raise BadImage(f"{source} has floating-point pixels of unknown range; convert it to 8 bits.")
        image.load()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                upright = ImageOps.exif_transpose(image)
        except DECODING_ERRORS:
            # Damaged metadata of a sound image.
            upright = image
        return _to_rgb(upright)


def _without_png_metadata(source: Path) -> BinaryIO | None:
    """A PNG without its text and colour profile; None of a file that is not a whole PNG."""
    kept = io.BytesIO()
    with source.open("rb") as file:
        signature = file.read(len(PNG_SIGNATURE))
        if signature != PNG_SIGNATURE:
            return None
        kept.write(signature)
        while len(header := file.read(8)) == 8:
            length = int.from_bytes(header[:4], "big")
            if header[4:] in PNG_METADATA:
                file.seek(length + 4, os.SEEK_CUR)
                continue
            kept.write(header)
            kept.write(file.read(length + 4))
            if header[4:] == b"IEND":
                break
    kept.seek(0)
    return kept


def square(image: Image.Image, resolution_px: int) -> Image.Image:
    """Scale the shorter side to `resolution_px` and cut the centre square out; see `covering`.

    Args:
        image: mode RGB.
        resolution_px: side of the result.
    """
    return covering(image, (resolution_px, resolution_px))


def covering(image: Image.Image, shape: Shape) -> Image.Image:
    """Scale an image to cover a shape and cut its centre out.

    Scaling is bicubic with the support widened when shrinking (Pillow's), as clean-fid resizes.

    Args:
        image: mode RGB.
        shape: width and height of the result.
    """
    from PIL import Image

    if image.size == shape:
        return image
    width, height = image.size
    wide, high = kept(image.size, shape)
    left, top = (width - wide) / 2, (height - high) / 2
    # Cropping within resize keeps the crop exact where the longer side does not scale to whole pixels.
    return image.resize(shape, Image.Resampling.BICUBIC, box=(left, top, left + wide, top + high))


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):
        import numpy as np

        # 16-bit greyscale; Pillow's own conversion would clip instead of scaling.
        levels = np.asarray(image, dtype=np.float64).clip(0, 65535) / 257
        image = Image.fromarray(np.rint(levels).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
