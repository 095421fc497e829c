"""Captioned image folders and single images, refused early and by name where they cannot be used."""

from __future__ import annotations

import json
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from matchgraph.training.errors import BadDataset, BadImage

if TYPE_CHECKING:
    from PIL import Image

METADATA_FILE = "metadata.jsonl"
# Captions a user would expect to count, in the other forms that Hugging Face imagefolder knows.
OTHER_METADATA_FILES = ("metadata.csv", "metadata.parquet")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
# Images a user would expect to count: told about, rather than left out in silence.
OTHER_SUFFIXES = frozenset({".avif", ".gif", ".heic", ".heif", ".jp2", ".svg", ".tif", ".tiff"})
# A file of a few kilobytes can unpack to gigabytes; this is four times a 16-megapixel photograph.
MAX_PIXELS = 64_000_000
# What decoders raise on damaged files, beside OSError.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


# Hugging Face's names of splits, and whether their images are fine-tuned on.
SPLITS = {"train": True, "validation": False, "valid": False, "val": False, "test": False}


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


def list_captioned_images(folder: str | os.PathLike[str]) -> list[CaptionedImage]:
    """List the images of a dataset folder with their captions.

    Captions come from `metadata.jsonl` (Hugging Face imagefolder: one object per line with `file_name`,
    relative to the folder, and `text`; a `split` other than "train" holds an image out), else from a text
    file beside each image with the same stem, else there are none.

    Args:
        folder: the dataset; images may lie in subfolders, and a file may be a link, as in download caches.
            Hidden files and folders are left out.

    Returns:
        The images: in the order of `metadata.jsonl`, or sorted by their path. They are not opened.

    Raises:
        BadDataset: no such folder, no images, a link to a folder, captions that cannot be read, or a faulty
            metadata line (the message has its number).
        BadImage: a file is in an image format that is not read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadDataset(f"{root} is no folder; give a folder of images.")
    found = _image_files(root)
    metadata = root / METADATA_FILE
    if metadata.is_file():
        images = _from_metadata(root, metadata)
        listed = {os.path.normpath(image.path) for image in images}
        forgotten = [path for path in found if os.path.normpath(path) not in listed]
        if forgotten:
            raise BadDataset(
                f"{metadata} does not list {forgotten[0].relative_to(root)}"
                f"{f' and {len(forgotten) - 1} more' if len(forgotten) > 1 else ''}; "
                "add a line for every image, or take the file away."
            )
    else:
        for name in OTHER_METADATA_FILES:
            if (root / name).exists():
                raise BadDataset(
                    f"{root / name} is not read; write its captions to {METADATA_FILE}, or take it away."
                )
        images = [CaptionedImage(path, _caption_beside(path)) for path in found]
    if not images:
        raise BadDataset(f"{root} holds no images ({', '.join(sorted(SUFFIXES))}).")
    if all(image.held_out for image in images):
        raise BadDataset(f'{metadata} holds every image out; give some the split "train".')
    return images


def load_rgb(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image whole, into 8-bit RGB.

    EXIF rotation is applied, transparency is laid over white, CMYK and palettes are converted, 16 bits are
    scaled to 8.

    Args:
        path: a PNG, JPEG, WEBP or BMP file, told by its content rather than its name.
        max_pixels: refuse larger images before they are unpacked.

    Returns:
        An image of mode RGB that holds no open file.

    Raises:
        BadImage: the file is missing, empty, of another format, animated, too large, truncated or corrupt.
    """
    from PIL import Image, ImageOps

    source = Path(path)
    try:
        if source.stat().st_size == 0:
            raise BadImage(f"{source} is empty.")
        with warnings.catch_warnings():
            # The limit below is stricter, and an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(source, formats=FORMATS)
        with opened as image:
            if image.width * image.height > max_pixels:
                raise BadImage(
                    f"{source} has {image.width} x {image.height} pixels, more than the {max_pixels:,} "
                    "allowed. Make it smaller."
                )
            # JPEGs of some cameras carry further pictures behind the first (MPO); those are no animations.
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise BadImage(f"{source} is animated ({image.n_frames} frames); give still images.")
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except BadImage:
        raise
    except Image.UnidentifiedImageError:
        raise BadImage(
            f"{source} is no image in one of the formats {', '.join(FORMATS)}, or its header is damaged."
        ) from None
    except Image.DecompressionBombError:
        raise BadImage(
            f"{source} has more than the {max_pixels:,} pixels allowed. Make it smaller."
        ) from None
    except DECODING_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadImage(f"{source} cannot be decoded: {reason or type(error).__name__}.") from None


def square(image: Image.Image, resolution_px: int) -> Image.Image:
    """Scale the shorter side to `resolution_px` and cut the centre square out.

    Scaling is bicubic with the support widened when shrinking (Pillow's), as clean-fid resizes.

    Args:
        image: mode RGB.
        resolution_px: side of the result.
    """
    from PIL import Image

    if image.size == (resolution_px, resolution_px):
        return image
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # Cropping within resize keeps the crop exact where the longer side does not scale to whole pixels.
    return image.resize(
        (resolution_px, resolution_px), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )


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


def _image_files(root: Path) -> list[Path]:
    files = []
    for directory, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            if (Path(directory) / name).is_symlink():
                raise BadDataset(
                    f"{Path(directory) / name} is a link to a folder, which is not followed; "
                    "copy the folder here or take the link away."
                )
        for name in names:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in OTHER_SUFFIXES:
                raise BadImage(
                    f"{Path(directory) / name} is in a format that is not read; "
                    f"convert it to one of {', '.join(FORMATS)} or take it away."
                )
            if suffix in SUFFIXES:
                files.append(Path(directory) / name)
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def _caption_beside(path: Path) -> str | None:
    beside = path.with_suffix(".txt")
    try:
        # Reading a named pipe would wait for ever.
        if not stat.S_ISREG(beside.stat().st_mode):
            raise BadDataset(f"{beside} is no text file; take it away.")
        return beside.read_text(encoding="utf-8-sig").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadDataset(f"{beside} cannot be read as UTF-8 text: {error}.") from None


def _from_metadata(root: Path, metadata: Path) -> list[CaptionedImage]:
    images: list[CaptionedImage] = []
    first_line: dict[str, int] = {}
    for number, row in _rows(metadata):
        where = f"{metadata}, line {number}"
        name, text = row.get("file_name"), row.get("text")
        if not isinstance(name, str) or not name:
            raise BadDataset(f'{where}: "file_name" must be the path of an image, got {name!r}.')
        if text is not None and not isinstance(text, str):
            raise BadDataset(f'{where}: "text" must be the caption of {name}, got {text!r}.')
        if text is not None and any("\ud800" <= character <= "\udfff" for character in text):
            raise BadDataset(f"{where}: the caption of {name!r} holds half of a surrogate pair.")
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or "\\" in name or "\0" in name:
            raise BadDataset(f"{where}: {name!r} must be a path inside the folder, with no '..'.")
        if str(relative) in first_line:
            raise BadDataset(f"{where}: {name!r} was already listed in line {first_line[str(relative)]}.")
        first_line[str(relative)] = number
        path = root / relative
        if not path.is_file():
            raise BadDataset(f"{where}: there is no file {name!r} in the folder.")
        split = row.get("split", "train")
        if not isinstance(split, str) or split not in SPLITS:
            raise BadDataset(f'{where}: "split" must be one of {", ".join(SPLITS)}, got {split!r}.')
        images.append(CaptionedImage(path, (text or "").strip() or None, not SPLITS[split]))
    return images


def _rows(metadata: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = metadata.read_bytes().splitlines()
    except OSError as error:
        raise BadDataset(f"{metadata} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise BadDataset(f"{metadata}, line {number}: is not UTF-8.") from None
        if not text:
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadDataset(f"{metadata}, line {number}: is no JSON ({error}).") from None
        if not isinstance(row, dict):
            raise BadDataset(f"{metadata}, line {number}: is no JSON object.")
        yield number, row
