"""Image folders and image files of every kind a user may have."""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from matchgraph.training.dataset_files import FORMATS, OTHER_SUFFIXES, SUFFIXES
from matchgraph.training.errors import BadDataset, BadImage
from matchgraph.training.images import (
    DatasetFolder,
    covering,
    list_captioned_images,
    load_rgb,
    read_image_folder,
    square,
)


def noise(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    values = np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(values, mode=mode)


def picture(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    noise().save(path)
    return path


def metadata(folder: Path, *rows: object) -> None:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / "metadata.jsonl").write_bytes(b"\n".join(lines))


# ---- folders


def test_captions_from_metadata_in_its_order(tmp_path):
    picture(tmp_path, "b.png")
    picture(tmp_path, "sub/a.jpg")
    metadata(
        tmp_path,
        {"file_name": "sub/a.jpg", "text": " ein Fuchs, größer "},
        b"",
        {"file_name": "b.png", "text": None},
    )
    images = list_captioned_images(tmp_path)
    assert [(image.path.name, image.caption) for image in images] == [
        ("a.jpg", "ein Fuchs, größer"),
        ("b.png", None),
    ]


def test_captions_from_text_files_else_none(tmp_path):
    picture(tmp_path, "b.PNG")
    picture(tmp_path, "a.webp")
    picture(tmp_path, ".hidden/c.png")
    (tmp_path / "a.txt").write_text("\ufeffa cat\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("not an image")
    images = list_captioned_images(tmp_path)
    assert [(image.path.name, image.caption) for image in images] == [("a.webp", "a cat"), ("b.PNG", None)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file_name": "gone.png", "text": "x"}, "line 2: there is no file 'gone.png'"),
        ({"file_name": "../a.png", "text": "x"}, "line 2: '../a.png' must be a path inside"),
        ({"file_name": "sub/../../a.png", "text": "x"}, "line 2: .* must be a path inside"),
        ({"file_name": "/etc/hostname", "text": "x"}, "line 2: .* must be a path inside"),
        ({"file_name": "./a.png", "text": "x"}, "line 2: .* already listed in line 1"),
        ({"text": "x"}, 'line 2: "file_name" must be'),
        ({"file_name": "b.png", "text": 3}, 'line 2: "text" must be'),
        ({"file_name": "b.png", "text": "\ud800"}, "line 2: the caption of 'b.png' holds half"),
        ({"file_name": "b.png", "split": "trian"}, "line 2: \"split\" must be one of .* got 'trian'"),
        ({"file_name": "b.png", "split": ["train"]}, 'line 2: "split" must be one of'),
        (["b.png"], "line 2: is not a JSON object"),
        (b"[" * 100_000, "line 2: is not JSON"),
        (b'{"file_name": "b.png", ', "line 2: is not JSON"),
        (b'{"file_name": "b.png", "text": "\xe9t\xe9"}', "line 2: is not UTF-8"),
    ],
)
def test_faulty_metadata_is_refused_by_line(tmp_path, row, message):
    picture(tmp_path, "a.png")
    picture(tmp_path, "b.png")
    picture(tmp_path.parent, "a.png")
    metadata(tmp_path, {"file_name": "a.png", "text": "x"}, row)
    with pytest.raises(BadDataset, match=message):
        list_captioned_images(tmp_path)


def test_a_split_other_than_train_holds_an_image_out(tmp_path):
    for name in "abc":
        picture(tmp_path, f"{name}.png")
    rows = [{"file_name": "a.png", "split": "validation"}, {"file_name": "b.png", "split": "train"}]
    metadata(tmp_path, *rows, {"file_name": "c.png"})
    assert [image.held_out for image in list_captioned_images(tmp_path)] == [True, False, False]
    metadata(tmp_path, *({"file_name": f"{name}.png", "split": "test"} for name in "abc"))
    with pytest.raises(BadDataset, match="holds every image out"):
        list_captioned_images(tmp_path)


def test_an_image_missing_from_metadata_is_told(tmp_path):
    picture(tmp_path, "a.png")
    picture(tmp_path, "b.png")
    metadata(tmp_path, {"file_name": "a.png", "text": "x"})
    with pytest.raises(BadDataset, match=r"does not list b\.png"):
        list_captioned_images(tmp_path)


def test_folders_without_usable_images_are_refused(tmp_path):
    with pytest.raises(BadDataset, match="is not a folder"):
        list_captioned_images(tmp_path / "gone")
    with pytest.raises(BadDataset, match="holds no images"):
        list_captioned_images(tmp_path)
    picture(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadDataset, match=r"a\.txt cannot be read as UTF-8"):
        list_captioned_images(tmp_path)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "photo.heic").write_bytes(b"....ftypheic")
    with pytest.raises(BadImage, match=r"photo\.heic is in a format"):
        list_captioned_images(tmp_path)


def test_what_would_be_left_out_in_silence_is_told(tmp_path):
    picture(tmp_path / "data", "a.png")
    picture(tmp_path / "elsewhere", "b.png")
    (tmp_path / "data" / "c.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    assert [image.path.name for image in list_captioned_images(tmp_path / "data")] == ["a.png", "c.png"]
    (tmp_path / "data" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadDataset, match=r"sub is a link to a folder"):
        list_captioned_images(tmp_path / "data")
    (tmp_path / "data" / "sub").unlink()
    (tmp_path / "data" / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadDataset, match=r"metadata\.parquet is not read"):
        list_captioned_images(tmp_path / "data")


def test_a_pipe_for_a_caption_is_not_waited_for(tmp_path):
    picture(tmp_path, "a.png")
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(BadDataset, match=r"a\.txt is not a regular file"):
        list_captioned_images(tmp_path)


def captions(folder: Path, column: str | None = None) -> dict[str, str | None]:
    images = list_captioned_images(DatasetFolder(folder, column))
    return {image.path.relative_to(folder).as_posix(): image.caption for image in images}


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
def test_captions_in_the_usual_columns_are_read(tmp_path, column):
    picture(tmp_path, "a.png")
    metadata(tmp_path, {"file_name": "a.png", column: "a fox", "label": 3})
    assert captions(tmp_path) == {"a.png": "a fox"}
    assert read_image_folder(tmp_path).notes == ("metadata.jsonl: column 'label' not read",)


def test_text_counts_before_other_columns_which_are_named(tmp_path):
    picture(tmp_path, "a.png")
    metadata(tmp_path, {"file_name": "a.png", "caption": "one", "text": "two"})
    assert captions(tmp_path) == {"a.png": "two"}
    assert read_image_folder(tmp_path).notes == ("metadata.jsonl: column 'caption' not read",)
    assert captions(tmp_path, "caption") == {"a.png": "one"}


def test_columns_that_may_all_be_captions_are_for_the_user_to_choose(tmp_path):
    picture(tmp_path, "a.png")
    metadata(tmp_path, {"file_name": "a.png", "caption": "one", "prompt": "two"})
    with pytest.raises(BadDataset, match="'caption' or 'prompt'; name one with --caption-column"):
        list_captioned_images(tmp_path)
    assert captions(tmp_path, "prompt") == {"a.png": "two"}
    with pytest.raises(BadDataset, match="has no 'words'; it has 'file_name', 'caption', 'prompt'"):
        captions(tmp_path, "words")
    metadata(tmp_path, {"file_name": "a.png", "description": "a fox"})
    assert captions(tmp_path) == {"a.png": None}
    assert "'description' not read; if one holds the captions" in read_image_folder(tmp_path).notes[0]
    assert captions(tmp_path, "description") == {"a.png": "a fox"}


def test_a_metadata_table_is_read_as_json_lines_are(tmp_path):
    for name in "ab":
        picture(tmp_path, f"{name}.png")
    table = tmp_path / "metadata.csv"
    table.write_text(
        '\ufefffile_name,caption,split\na.png,"a fox, red",train\nb.png,,test\n', encoding="utf-8"
    )
    images = list_captioned_images(tmp_path)
    assert [(image.caption, image.held_out) for image in images] == [("a fox, red", False), (None, True)]
    table.write_text("file_name,text\na.png,x,y\n")
    with pytest.raises(BadDataset, match=r"metadata\.csv, line 2: 3 values under 2 columns"):
        list_captioned_images(tmp_path)
    table.write_text("image,text\na.png,x\n")
    with pytest.raises(BadDataset, match=r"line 2: \"file_name\" must be .* the line has 'image', 'text'"):
        list_captioned_images(tmp_path)
    metadata(tmp_path, {"file_name": "a.png"})
    with pytest.raises(BadDataset, match=r"has both metadata\.csv and metadata\.jsonl"):
        list_captioned_images(tmp_path)


def test_lists_of_captions(tmp_path):
    picture(tmp_path, "a.png")
    metadata(tmp_path, {"file_name": "a.png", "text": ["a fox", "a red animal"]})
    assert captions(tmp_path) == {"a.png": "a fox"}
    assert read_image_folder(tmp_path).notes == ("1 image with a list of captions: the first is read",)
    metadata(tmp_path, {"file_name": "a.png", "text": []})
    assert captions(tmp_path) == {"a.png": None}
    metadata(tmp_path, {"file_name": "a.png", "text": ["a fox", 3]})
    with pytest.raises(BadDataset, match='line 1: "text" must be the caption'):
        list_captioned_images(tmp_path)


def test_caption_files_of_every_kind(tmp_path):
    for name in "abcdef":
        picture(tmp_path, f"{name}.png")
    (tmp_path / "a.txt").write_text("of text")
    (tmp_path / "b.caption").write_text("of kohya")
    (tmp_path / "c.json").write_text('{"caption": "of a field", "url": "x"}')
    (tmp_path / "d.json").write_text('["of a list", "another"]')
    (tmp_path / "e.png.TXT").write_text("by the whole name")
    (tmp_path / "f.txt").write_text("first")
    (tmp_path / "f.caption").write_text("second")
    (tmp_path / "g.txt").write_text("of no image")
    assert list(captions(tmp_path).values()) == [
        "of text", "of kohya", "of a field", "of a list", "by the whole name", "first",
    ]  # fmt: skip
    assert read_image_folder(tmp_path).notes == (
        ".json files: column 'url' not read",
        "1 image with a list of captions: the first is read",
        "1 image with another caption in a .caption file: it is not read",
        "not read: g.txt",
    )
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(BadDataset, match=r"c\.json: is not JSON"):
        list_captioned_images(tmp_path)


def test_what_is_not_read_is_named_once(tmp_path):
    picture(tmp_path, "a.png")
    metadata(tmp_path, {"file_name": "a.png", "text": "a fox"})
    (tmp_path / "a.txt").write_text("another caption")
    for number in range(5):
        (tmp_path / f"{number}.mp4").write_bytes(b"")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "b.png").write_bytes(b"")
    for name in (".DS_Store", "._a.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    listing = read_image_folder(tmp_path)
    assert [image.path.name for image in listing.images] == ["a.png"]
    assert listing.notes == (
        "not read: 5 .mp4 files, a.txt",
        "ignored: .DS_Store, ._a.png, Thumbs.db and 1 more",
    )


def test_split_folders_are_one_dataset_with_the_others_held_out(tmp_path):
    for split, name in (("train", "a"), ("Test", "b"), ("val", "c")):
        picture(tmp_path / split, f"{name}.png")
        metadata(tmp_path / split, {"file_name": f"{name}.png", "text": name})
    images = list_captioned_images(tmp_path)
    found = {image.caption: image.held_out for image in images}
    assert found == {"a": False, "b": True, "c": True}
    # What metadata say counts before the folder's name.
    metadata(tmp_path / "val", {"file_name": "c.png", "text": "c", "split": "train"})
    assert {image.caption for image in list_captioned_images(tmp_path) if image.held_out} == {"b"}
    # Each metadata file must list the images of its own folder, and no other.
    picture(tmp_path / "train", "d.png")
    with pytest.raises(BadDataset, match=r"train/metadata\.jsonl does not list d\.png"):
        list_captioned_images(tmp_path)


@pytest.mark.parametrize(
    ("name", "head", "said"),
    [
        ("train-00000.parquet", b"PAR1", r"1 \.parquet file; add it with `matchgraph ingest datasets`"),
        ("data-00000.arrow", b"ARROW1", r"1 \.arrow file; add it with"),
        ("00000.tar", b"", r"1 \.tar file \(a WebDataset\); add it with"),
        ("images.zip", b"PK", r"1 \.zip file; unpack"),
    ],
)
def test_packed_datasets_are_named(tmp_path, name, head, said):
    (tmp_path / name).write_bytes(head)
    (tmp_path / "README.md").write_text("hi")
    with pytest.raises(BadDataset, match=said):
        list_captioned_images(tmp_path)


# ---- files


def test_a_png_with_large_metadata_is_read_and_a_damaged_one_is_not(tmp_path):
    info = PngInfo()
    info.add_text("parameters", "x" * 3_000_000, zip=True)
    info.add_itxt("workflow", "y" * 3_000_000, zip=True)
    path = tmp_path / "a.png"
    noise().save(path, pnginfo=info, icc_profile=bytes(4_000_000))
    with pytest.raises(ValueError, match="too large"), Image.open(path) as opened:
        opened.load()
    np.testing.assert_array_equal(np.asarray(load_rgb(path)), np.asarray(noise()))
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"IDAT") + 40])
    with pytest.raises(BadImage, match=r"a\.png cannot be decoded"):
        load_rgb(path)


def test_damaged_exif_of_a_sound_image_is_dropped(tmp_path):
    noise().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert load_rgb(tmp_path / "a.jpg").size == (24, 16)


def test_every_suffix_of_a_format_that_is_read_is_listed_and_decodes(tmp_path):
    Image.init()
    readable = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    # Floating-point pixels have no range.
    assert readable - {".pfm"} == SUFFIXES
    for number, suffix in enumerate(sorted(SUFFIXES)):
        kind = Image.registered_extensions()[suffix]
        image = (
            noise(mode="L").convert("1")
            if suffix == ".pbm"
            else noise(mode="L" if suffix == ".pgm" else "RGB")
        )
        image.save(tmp_path / f"{number:02}{suffix}", format=kind)
    images = list_captioned_images(tmp_path)
    assert len(images) == len(SUFFIXES)
    for image in images:
        decoded = load_rgb(image.path)
        assert (decoded.mode, decoded.size) == ("RGB", (24, 16)), image.path


def test_a_suffix_that_pillow_opens_is_read_or_refused_or_named(tmp_path):
    picture(tmp_path, "a.png")
    for suffix in sorted(set(Image.registered_extensions()) - SUFFIXES):
        strange = tmp_path / f"b{suffix}"
        strange.write_bytes(b"x")
        if suffix in OTHER_SUFFIXES:
            with pytest.raises(BadImage, match=re.escape(strange.name)):
                list_captioned_images(tmp_path)
        else:
            assert strange.name in read_image_folder(tmp_path).notes[0]
        strange.unlink()


def test_the_content_counts_and_not_the_name(tmp_path):
    noise().save(tmp_path / "a.png", format="JPEG")
    assert load_rgb(tmp_path / "a.png").mode == "RGB"


def test_lossless_pixels_come_through_unchanged(tmp_path):
    np.testing.assert_array_equal(np.asarray(load_rgb(picture(tmp_path, "a.png"))), np.asarray(noise()))


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = [0, 128, 255]
    Image.fromarray(rgba, mode="RGBA").save(tmp_path / "a.png")
    pixels = np.asarray(load_rgb(tmp_path / "a.png"))[0]
    assert pixels[0].tolist() == [255, 255, 255]
    np.testing.assert_allclose(pixels[1], [227, 127, 127], atol=1)
    assert pixels[2].tolist() == [200, 0, 0]


def test_palette_grey_and_bilevel_images(tmp_path):
    noise().quantize(8).save(tmp_path / "palette.png")
    Image.new("P", (4, 4), 0).save(tmp_path / "clear.png", transparency=0)
    noise(mode="L").save(tmp_path / "grey.png")
    noise(mode="L").convert("1").save(tmp_path / "bilevel.png")
    noise(mode="L").convert("LA").save(tmp_path / "grey_alpha.png")
    for path in tmp_path.iterdir():
        assert load_rgb(path).mode == "RGB", path
    assert np.asarray(load_rgb(tmp_path / "clear.png")).min() == 255
    np.testing.assert_array_equal(
        np.asarray(load_rgb(tmp_path / "palette.png")), np.asarray(noise().quantize(8).convert("RGB"))
    )


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(load_rgb(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 10, 128, 255]


def test_cmyk_becomes_the_colour_it_means(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = np.asarray(load_rgb(tmp_path / "a.jpg"))[4, 4]
    assert red > 240
    assert max(green, blue) < 15


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(24, 16).save(tmp_path / "a.jpg", exif=exif)
    assert load_rgb(tmp_path / "a.jpg").size == (16, 24)


def test_animations_are_refused(tmp_path):
    frames = [noise(), Image.new("RGB", (24, 16))]
    for name in ("a.webp", "b.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(BadImage, match=rf"{name} is animated \(2 frames\)"):
            load_rgb(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_refused_by_name(tmp_path, name, kept):
    path = tmp_path / name
    noise(64, 64).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(BadImage, match=name):
        load_rgb(path)


def test_corrupt_foreign_and_missing_files_are_refused_by_name(tmp_path):
    path = picture(tmp_path, "a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    noise().save(tmp_path / "ico.png", format="ICO")
    (tmp_path / "text.png").write_text("<svg/>")
    for name, reason in [
        ("a.png", "cannot be decoded"),
        ("ico.png", "not an image in one of the formats"),
        ("text.png", "not an image in one of the formats"),
        ("gone.png", "No such file"),
    ]:
        with pytest.raises(BadImage, match=rf"{name} .*{reason}"):
            load_rgb(tmp_path / name)
    with pytest.raises(BadImage, match="cannot be decoded"):
        load_rgb(tmp_path)


def test_the_pixel_cap_holds_before_unpacking(tmp_path):
    with pytest.raises(BadImage, match=r"24 x 16 pixels, more than the 383"):
        load_rgb(picture(tmp_path, "a.png"), max_pixels=383)
    assert load_rgb(tmp_path / "a.png", max_pixels=384)
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(BadImage, match=r"bomb\.png"):
        load_rgb(tmp_path / "bomb.png")


def test_square_scales_the_shorter_side_and_cuts_the_centre():
    stripes = np.zeros((10, 30, 3), dtype=np.uint8)
    stripes[:, 10:20] = [10, 200, 30]
    cut = square(Image.fromarray(stripes), 20)
    assert cut.size == (20, 20)
    # Bicubic weights reach over the edge of the cut.
    np.testing.assert_array_equal(np.asarray(cut)[:, 3:-3], np.broadcast_to([10, 200, 30], (20, 14, 3)))
    assert square(noise(33, 57), 32).size == (32, 32)


def test_covering_scales_to_the_shape_and_cuts_the_centre():
    stripes = np.zeros((30, 40, 3), dtype=np.uint8)
    stripes[5:25] = [10, 200, 30]
    cut = covering(Image.fromarray(stripes), (80, 40))
    assert cut.size == (80, 40)
    np.testing.assert_array_equal(np.asarray(cut)[3:-3], np.broadcast_to([10, 200, 30], (34, 80, 3)))
    # Whole where the aspect is the shape's, and upright ones likewise.
    whole = noise(40, 20)
    assert covering(whole, (40, 20)) is whole
    assert covering(noise(57, 33), (24, 40)).size == (24, 40)
