"""Image folders: which datasets a folder holds, their images and captions, and a hash of those."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.graphdb.connection import settings_from_environment
from matchgraph.graphdb.models import Dataset
from matchgraph.ingest.errors import BadInput, Problem
from matchgraph.ingest.tables.csv_file import id_fault
from matchgraph.ingest.tables.fingerprints import fingerprint_files
from matchgraph.ingest.tables.packed import format_of, packed_files, unpack
from matchgraph.training.captions import METADATA_FILES, concept_of
from matchgraph.training.contents import recognise, remedy
from matchgraph.training.dataset_files import OTHER_SUFFIXES, SUFFIXES, holds_images, is_junk, is_split
from matchgraph.training.files import folder_name

if TYPE_CHECKING:
    from matchgraph.training.images import CaptionedImage, DatasetFolder

MINIMUM_IMAGES = 2  # a covariance needs two
FOLDER_HINT = "name a folder of images, or a folder of such folders"


@dataclass(frozen=True)
class ImageFolder:
    """The images of one dataset.

    Args:
        id: the dataset's id, see `dataset_name`.
        folder: the folder.
        images: with their captions; those that can be used, once they were decoded.
        caption_column: the column of its metadata that holds the captions, where the user named it.
        notes: what the folder holds and is not read.
        packed: what the images were unpacked from, as a user calls it; empty for a plain folder.
    """

    id: str
    folder: Path
    images: tuple[CaptionedImage, ...]
    caption_column: str | None = None
    notes: tuple[str, ...] = ()
    packed: str = ""

    @property
    def captioned(self) -> int:
        """How many images have a caption."""
        return sum(image.caption is not None for image in self.images)


@dataclass(frozen=True)
class FoldersReading:
    """What was found in image folders.

    Args:
        folders: the datasets, in the order of their folders.
        problems: folders and images that cannot be used.
    """

    folders: tuple[ImageFolder, ...]
    problems: tuple[Problem, ...]


def dataset_folders(folder: Path) -> list[Path]:
    """Return the dataset folders meant by `folder`.

    That is `folder` itself where it holds images, metadata, a folder for each split (train, validation, test)
    or files that images are packed in, or where its subfolders are named as for kohya's scripts; else its
    subfolders. Also a single file of packed images.

    Raises:
        BadInput: `folder` is not a folder, holds neither images nor folders, or has folders of images beside
            those of its splits.
    """
    if folder.is_file() and packed_files(folder):
        return [folder]
    if not folder.is_dir():
        content = recognise(folder)
        reason = "is not a folder" if content is None else f"is {content.name}, not a folder of images"
        hint = FOLDER_HINT if content is None else remedy(content, "dataset")
        raise BadInput([Problem(str(folder), 0, reason, hint)], skippable=False)
    if (folder / "model_index.json").exists():
        problem = Problem(str(folder), 0, "is a pipeline, not images", "use `matchgraph ingest models`")
        raise BadInput([problem], skippable=False)
    entries = sorted(entry for entry in folder.iterdir() if not is_junk(entry.name))
    if any(entry.is_file() and _looks_like_data(entry) for entry in entries):
        return [folder]
    inside = [entry for entry in entries if entry.is_dir()]
    with_images = [entry for entry in inside if holds_images(entry)]
    if not with_images and packed_files(folder):
        return [folder]
    if not inside:
        raise BadInput([Problem(str(folder), 0, "holds no images", FOLDER_HINT)], skippable=False)
    if with_images and all(concept_of(entry.name) for entry in with_images):
        return [folder]
    splits = [entry.name for entry in with_images if is_split(entry.name)]
    if splits:
        others = [entry.name for entry in with_images if not is_split(entry.name)]
        if others:
            reason = f"holds the splits {', '.join(splits)} beside other folders, {', '.join(others)}"
            hint = "give the folders one by one, or move those that are not splits elsewhere"
            raise BadInput([Problem(str(folder), 0, reason, hint)], skippable=False)
        return [folder]
    return inside


def _looks_like_data(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES | OTHER_SUFFIXES or file.name in METADATA_FILES


def dataset_name(folder: Path) -> str:
    """What a dataset's folder is called.

    That is the folder's own name; for the folder of a split (train, validation, test) the name of its
    parent; in the cache of the Hugging Face hub the repository's, with its owner; of a file its name without
    the suffix.
    """
    path = Path(os.path.abspath(folder))
    if path.is_file():
        return path.stem
    if is_split(path.name) and path.parent.name:
        path = path.parent
    return folder_name(path)


def read_folders(
    folder: Path,
    *,
    dataset_id: str | None = None,
    caption_column: str | None = None,
    home: Path | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> FoldersReading:
    """Find the image datasets in a folder and decode every image once, so that bad ones are known at once.

    Args:
        folder: a folder of images, or a folder of such folders.
        dataset_id: id of the dataset, where there is one; None for `dataset_name`.
        caption_column: the column of the metadata that holds the captions; None for the usual ones.
        home: see `list_folder`.
        on_image: called after each image with the number done and the number found so far.

    Returns:
        The datasets with their good images, and what is wrong with the rest.

    Raises:
        BadInput: there is no dataset folder at all, or an id is given for several.
    """
    from matchgraph.training.errors import TrainingError
    from matchgraph.training.images import load_rgb

    listed: list[ImageFolder] = []
    problems: list[Problem] = []
    places = dataset_folders(folder)
    if dataset_id is not None and places != [folder]:
        problem = Problem(str(folder), 0, "holds several datasets", "name one of them, or leave --id out")
        raise BadInput([problem], skippable=False)
    for place in places:
        try:
            listed.append(list_folder(place, dataset_id=dataset_id, caption_column=caption_column, home=home))
        except BadInput as error:
            problems += error.problems
    total = sum(len(each.images) for each in listed)
    done = 0
    found: list[ImageFolder] = []
    for each in listed:
        good: list[CaptionedImage] = []
        for image in each.images:
            try:
                load_rgb(image.path)
                good.append(image)
            except TrainingError as error:
                problems.append(image_problem(image.path, error))
            done += 1
            if on_image is not None:
                on_image(done, total)
        usable = replace(each, images=tuple(good))
        if few := too_few_images(usable):
            problems.append(few)
        else:
            found.append(usable)
    return FoldersReading(tuple(found), tuple(problems))


def list_folder(
    place: Path,
    *,
    dataset_id: str | None = None,
    caption_column: str | None = None,
    home: Path | None = None,
) -> ImageFolder:
    """The images of one dataset, as they are listed; none is decoded.

    Args:
        place: the folder. Packed images are unpacked first, once, see `packed.unpack`.
        dataset_id: id of the dataset; None for `dataset_name`.
        caption_column: the column of the metadata that holds the captions; None for the usual ones.
        home: the data folder, for what is unpacked; None for the one of the environment.

    Raises:
        BadInput: the folder's name is not an id, or it cannot be listed.
    """
    from matchgraph.training.errors import TrainingError
    from matchgraph.training.images import DatasetFolder, read_image_folder

    name = dataset_id or dataset_name(place)
    if fault := id_fault(name, "dataset"):
        problem = Problem(repr(str(place))[1:-1], 0, fault[0], "rename the folder")
        raise BadInput([problem], skippable=False)
    notes: list[str] = []
    folder, packed = place, ""
    try:
        if (files := packed_files(place)) and not holds_images(place):
            packed = f"{place} ({format_of(files)})"
            folder = unpack(place, name, home or settings_from_environment().home)
            notes.append(f"its images were unpacked into {folder}; keep that folder for fine-tuning")
        listing = read_image_folder(DatasetFolder(folder, caption_column))
    except TrainingError as error:
        raise BadInput([_folder_problem(place, error)], skippable=False) from error
    notes += listing.notes
    noted = tuple(f"{name}: {note}" for note in notes)
    return ImageFolder(name, folder, tuple(listing.images), caption_column, noted, packed)


def too_few_images(found: ImageFolder) -> Problem | None:
    """What is wrong with a dataset of a single image, or none; None of one with more."""
    count = len(found.images)
    if count >= MINIMUM_IMAGES:
        return None
    reason = f"holds {count} usable image{'s' if count != 1 else ''}"
    return Problem(found.packed or str(found.folder), 0, reason, f"a dataset needs {MINIMUM_IMAGES} at least")


def _folder_problem(folder: Path, error: Exception) -> Problem:
    # The message says what to do after a semicolon, and may begin with the folder, which is the place.
    reason, _, hint = str(error).removeprefix(f"{folder} ").rstrip(".").partition("; ")
    return Problem(str(folder), 0, reason, hint or "correct the folder")


def image_problem(file: Path, error: Exception) -> Problem:
    """An image that cannot be used."""
    # The message begins with the file's name, which the problem's place says already.
    reason = str(error).removeprefix(f"{file} ").rstrip(".")
    return Problem(str(file), 0, reason, "replace or delete the image")


def images_hash(found: ImageFolder) -> str:
    """Return 16 hex digits over a dataset's images, their names, captions and split."""
    digest = hashlib.sha256(fingerprint_files(found.folder, [image.path for image in found.images]).encode())
    digest.update(json.dumps([image.caption for image in found.images]).encode())
    if any(image.held_out for image in found.images):
        digest.update(json.dumps([image.held_out for image in found.images]).encode())
    return digest.hexdigest()[:16]


def source_of(dataset: Dataset) -> DatasetFolder:
    """The folder that a dataset was ingested from, with the column of its captions."""
    from matchgraph.training.images import DatasetFolder

    column = dataset.properties.get("caption_column")
    folder = Path(str(dataset.properties.get("source")))
    return DatasetFolder(folder, None if column is None else str(column))


def listed_hash(folder: str | os.PathLike[str]) -> str:
    """Return the hash of a folder's images as they are now, without decoding them.

    Args:
        folder: a folder of images, see `training.images.read_image_folder`.

    Returns:
        What `images_hash` gave when the dataset was ingested, if nothing has changed since.

    Raises:
        BadDataset: the folder holds no images or a faulty metadata file.
        BadImage: a file is in an image format that is not read.
    """
    from matchgraph.training.images import list_captioned_images

    place = Path(folder)
    return images_hash(ImageFolder(place.name, place, tuple(list_captioned_images(folder))))
