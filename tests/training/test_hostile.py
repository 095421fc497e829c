"""Files made to do harm: refused by one line, before anything of them is run, trusted or read at length."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import time
import zlib
from pathlib import Path

import pytest

from matchgraph.training.errors import BadAdapter, BadImage, BadPipeline, UnsafeWeights
from matchgraph.training.images import load_rgb
from matchgraph.training.pipelines.adapters import ADAPTER_FILE, load_adapter
from matchgraph.training.pipelines.loading import load_pipeline
from matchgraph.training.pipelines.weight_files import check_weight_files

GIB = 2**30
# Protocol 2 of a call of os.system; nothing here may ever open it.
PICKLE = b"\x80\x02cposix\nsystem\nX\x0a\x00\x00\x00touch harm\x85R."


def safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "offsets past the end": safetensors({"a": tensor(0, 4000, [1000])}, b"\0" * 16),
    "offsets backwards": safetensors({"a": tensor(16, 0, [4])}, b"\0" * 16),
    "negative offsets": safetensors({"a": tensor(-16, 0, [4])}, b"\0" * 16),
    "overlapping tensors": safetensors({"a": tensor(0, 16, [4]), "b": tensor(8, 24, [4])}, b"\0" * 24),
    "the same bytes twice": safetensors({"a": tensor(0, 16, [4]), "b": tensor(0, 16, [4])}, b"\0" * 16),
    "a hole": safetensors({"a": tensor(0, 8, [2]), "b": tensor(16, 24, [2])}, b"\0" * 24),
    "bytes behind the last tensor": safetensors({"a": tensor(0, 8, [2])}, b"\0" * 24),
    "a shape of more than its bytes": safetensors({"a": tensor(0, 16, [2**40, 2**40])}, b"\0" * 16),
    "a shape that overflows": safetensors({"a": tensor(0, 0, [2**32, 2**32])}),
    "an unknown type": safetensors({"a": tensor(0, 16, [4], "OBJ")}, b"\0" * 16),
    "a header of exabytes": safetensors({}, length=2**62),
    "a header of gigabytes": safetensors({}, length=3 * GIB),
    "a header longer than the file": safetensors({}, length=4096),
    "a header that is not JSON": safetensors(b"{]"),
    "a header that is a list": safetensors([]),
    "a header of nested lists": safetensors(b'{"a":' + b"[" * 100_000),
    "no header": b"\x07",
    "a pickle by another name": PICKLE + b"\0" * 64,
}
each_file = pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())


def refuses(error: type[Exception], name: str, action) -> None:
    """The action fails by one line that names the file, in a moment and without a gigabyte more of memory."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(error) as refused:
        action()
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIB / 1024
    assert time.monotonic() - began < 60


@pytest.fixture(scope="module")
def sd(tiny_folder):
    return load_pipeline(tiny_folder("sd"), device="cpu")


@each_file
def test_safetensors_that_lie_about_themselves_are_no_weights_of_a_pipeline(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    refuses(BadPipeline, "model.safetensors", lambda: check_weight_files(tmp_path))


@each_file
def test_safetensors_that_lie_about_themselves_are_no_adapter(sd, tmp_path, content):
    pipe, own = sd
    (tmp_path / ADAPTER_FILE).write_bytes(content)
    refuses(BadAdapter, ADAPTER_FILE, lambda: load_adapter(pipe, own, tmp_path))
    assert not any(".lora_" in name for name in pipe.unet.state_dict())


@pytest.mark.parametrize("claim", ["header", "tensor"])
def test_a_file_of_many_gigabytes_is_refused_without_being_read(sd, tmp_path, claim):
    pipe, own = sd
    size = 24 * GIB
    if claim == "header":
        start = struct.pack("<Q", size - 8) + b"{"
    else:
        start = safetensors({"a": tensor(0, 2 * size, [size // 2])})
    for name in (ADAPTER_FILE, "model.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(size)  # sparse: it takes no room on the disk
    refuses(BadAdapter, ADAPTER_FILE, lambda: load_adapter(pipe, own, tmp_path / ADAPTER_FILE))
    (tmp_path / ADAPTER_FILE).unlink()
    refuses(BadPipeline, "model.safetensors", lambda: check_weight_files(tmp_path))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".PT", ".joblib"])
def test_a_pickle_instead_of_weights_is_refused(sd, tiny_folder, tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    pipe, own = sd
    folder = Path(shutil.copytree(tiny_folder("sd"), tmp_path / "model"))
    # A component may be a link, as several models of the small zoo share theirs.
    (folder / "vae").symlink_to((folder / "vae").rename(tmp_path / "shared-vae"))
    for component in ("unet", "vae", "text_encoder"):
        weights = next((folder / component).glob("*.safetensors"))
        aside = weights.rename(tmp_path / "aside")
        (folder / component / f"weights{suffix}").write_bytes(PICKLE)
        refuses(UnsafeWeights, f"weights{suffix}", lambda: load_pipeline(folder, device="cpu"))
        aside.rename(weights)
    adapter = tmp_path / f"pytorch_lora_weights{suffix}"
    adapter.write_bytes(PICKLE)
    refuses(BadAdapter, adapter.name, lambda: load_adapter(pipe, own, adapter))
    # A folder with nothing else has no adapter.
    refuses(BadAdapter, ADAPTER_FILE, lambda: load_adapter(pipe, own, tmp_path))
    assert not (tmp_path / "harm").exists()


def test_pickles_beside_what_is_opened_are_never_opened(tiny_folder, tmp_path, monkeypatch):
    """Under every name that diffusers, transformers or peft would open where the safetensors are missing."""
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(tiny_folder("sd"), tmp_path / "model"))
    names = [
        "diffusion_pytorch_model",
        "pytorch_model",
        "model",
        "adapter_model",
        "vocab",
        "tokenizer",
        "scheduler",
    ]
    for component in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "safety_checker", "."):
        (folder / component).mkdir(exist_ok=True)
        for name in names:
            for suffix in (".bin", ".pt", ".pkl", ".ckpt"):
                (folder / component / f"{name}{suffix}").write_bytes(PICKLE)
        (folder / component / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "model.bin"}}')
    load_pipeline(folder, device="cpu")
    assert not (tmp_path / "harm").exists()


def bomb(width: int, height: int, rows: int) -> bytes:
    """A PNG of a few kilobytes whose black pixels would take gigabytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1 + 3 * 1000) * rows, 9))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (2**31, 2**31)]
)
def test_an_image_that_unpacks_to_gigabytes_is_refused(tmp_path, width, height):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(width, height, 2000))
    assert path.stat().st_size < 100_000
    refuses(BadImage, "bomb.png", lambda: load_rgb(path))
