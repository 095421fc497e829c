"""Image folders and image files of every kind a user may have."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matchgraph.training.errors import BadDataset, BadImage
from matchgraph.training.images import list_captioned_images, load_rgb, square


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
        (["b.png"], "line 2: is no JSON object"),
        (b"[" * 100_000, "line 2: is no JSON"),
        (b'{"file_name": "b.png", ', "line 2: is no JSON"),
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
    with pytest.raises(BadDataset, match="is no folder"):
        list_captioned_images(tmp_path / "gone")
    with pytest.raises(BadDataset, match="holds no images"):
        list_captioned_images(tmp_path)
    picture(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadDataset, match=r"a\.txt cannot be read as UTF-8"):
        list_captioned_images(tmp_path)
    (tmp_path / "a.txt").unlink()
    picture(tmp_path, "moving.gif")
    with pytest.raises(BadImage, match=r"moving\.gif is in a format"):
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
    (tmp_path / "data" / "metadata.csv").write_text("file_name,text\na.png,a fox\n")
    with pytest.raises(BadDataset, match=r"metadata\.csv is not read"):
        list_captioned_images(tmp_path / "data")


def test_a_pipe_for_a_caption_is_not_waited_for(tmp_path):
    picture(tmp_path, "a.png")
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(BadDataset, match=r"a\.txt is no text file"):
        list_captioned_images(tmp_path)


# ---- files


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp"])
def test_every_allowed_format_decodes(tmp_path, name):
    image = load_rgb(picture(tmp_path, name))
    assert (image.mode, image.size) == ("RGB", (24, 16))


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
    noise().save(tmp_path / "gif.png", format="GIF")
    (tmp_path / "text.png").write_text("<svg/>")
    for name, reason in [
        ("a.png", "cannot be decoded"),
        ("gif.png", "no image in one of the formats"),
        ("text.png", "no image in one of the formats"),
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
