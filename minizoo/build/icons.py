"""The icons behind the small zoo: read from the icon packages, named, captioned and drawn.

Five emoji styles of the `@iconify-json` packages draw nearly the same concepts, so style x category gives
image datasets that differ in a way a human sees at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from matchgraph.minizoo import ROOT
from matchgraph.minizoo.build.errors import IconPackagesMissing

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

WORK = ROOT / "work"
PACKAGES = WORK / "node_modules" / "@iconify-json"
TRAINING_RESOLUTION_PX = 32

# Exact versions: another release draws other pixels. `npm install` with these in the work folder brings them.
PACKAGE_VERSIONS: Mapping[str, str] = {
    "noto": "1.2.9",
    "twemoji": "1.2.5",
    "openmoji": "1.2.29",
    "fluent-emoji": "1.2.7",
    "fluent-emoji-flat": "1.2.6",
}
STYLES = tuple(PACKAGE_VERSIONS)

# Package category (with or without its ampersand) -> the name used in ids, and the words that close a
# caption.
CATEGORIES: Mapping[str, tuple[str, str]] = {
    "Activities": ("activities", "activity"),
    "Animals Nature": ("animals", "animal or plant"),
    "Food Drink": ("food", "food and drink"),
    "Objects": ("objects", "object"),
    "People Body": ("people", "person"),
    "Smileys Emotion": ("smileys", "smiley"),
    "Symbols": ("symbols", "symbol"),
    "Travel Places": ("travel", "travel and places"),
}
# How a caption names a style; only the CLIP is told styles, so that its features separate them.
STYLE_WORDS: Mapping[str, str] = {
    "noto": "noto style",
    "twemoji": "twemoji style",
    "openmoji": "openmoji style",
    "fluent-emoji": "fluent 3d style",
    "fluent-emoji-flat": "fluent flat style",
    "noto-v1": "old noto style",
    "emojione": "emojione style",
    "emojione-v1": "old emojione style",
    "fluent-emoji-high-contrast": "high contrast style",
}
_SKIN_TONE = re.compile(r"skin-tone|-(?:medium-)?(?:dark|light)$|-medium$")
_PERSON_WORDS = {"man", "woman", "person", "men", "women", "people"}


@dataclass(frozen=True)
class Icon:
    """One icon of one style."""

    style: str
    category: str
    name: str
    svg: str

    @property
    def concept(self) -> str:
        """What the icon shows, whoever is shown doing it: the unit of the split."""
        if self.category != "people":
            return self.name
        words = [word for word in self.name.split("-") if word not in _PERSON_WORDS]
        return "-".join(words) or self.name

    @property
    def caption(self) -> str:
        """The icon's name in words, then its category: `red apple, food and drink`."""
        closing = dict(CATEGORIES.values())[self.category]
        return f"{self.name.replace('-', ' ')}, {closing}"

    @property
    def styled_caption(self) -> str:
        """The caption with its style in front: `noto style, red apple, food and drink`."""
        return f"{STYLE_WORDS[self.style]}, {self.caption}"


def name_hash(name: str) -> str:
    """The hash that orders concepts for the split.

    Args:
        name: a concept's name, as `Icon.concept` gives it.

    Returns:
        Hexadecimal SHA-256 of the name.
    """
    return hashlib.sha256(name.encode()).hexdigest()


def read_categories(package: Path) -> dict[str, list[str]]:
    """Read which icon names belong to which of our categories.

    Args:
        package: the folder of one icon package.

    Returns:
        Category name -> icon names in the package's order; skin-tone variants left out.
    """
    metadata = json.loads((package / "metadata.json").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for title, names in metadata["categories"].items():
        known = CATEGORIES.get(title.replace("& ", ""))
        if known is None:
            continue
        keep = [name for name in names if not (known[0] == "people" and _SKIN_TONE.search(name))]
        found[known[0]] = [name for name in keep if "skin-tone" not in name]
    return found


@lru_cache(maxsize=1)
def read_icons(packages: Path = PACKAGES) -> tuple[Icon, ...]:
    """Read every icon of the five styles.

    Args:
        packages: the folder that holds one folder for each icon package.

    Returns:
        Icons sorted by style, category and name.

    Raises:
        IconPackagesMissing: a package is absent or of another version than the pinned one.
    """
    icons: list[Icon] = []
    for style, version in PACKAGE_VERSIONS.items():
        drawings = read_package(packages, style, version)
        # The 3D package names its icons like the flat one but brings no categories.
        categories = read_categories(packages / ("fluent-emoji-flat" if style == "fluent-emoji" else style))
        for category, names in categories.items():
            icons.extend(Icon(style, category, name, drawings[name]) for name in names if name in drawings)
    return tuple(sorted(icons, key=lambda icon: (icon.style, icon.category, icon.name)))


def read_package(packages: Path, style: str, version: str) -> dict[str, str]:
    """Read the drawings of one icon package.

    Args:
        packages: the folder that holds one folder for each icon package.
        style: the package's name.
        version: which one it must be; another draws other pixels.

    Returns:
        Icon name -> SVG; hidden icons left out.

    Raises:
        IconPackagesMissing: the package is absent or of another version.
    """
    folder = packages / style
    if not (folder / "icons.json").is_file():
        raise IconPackagesMissing(
            f"icon package @iconify-json/{style} {version} is not in {packages.name}: "
            "run `npm install` with the versions in minizoo/LICENCES.md in minizoo/work"
        )
    found = json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"]
    if found != version:
        raise IconPackagesMissing(
            f"icon package {style} is {found}, expected {version}: install that version"
        )
    data = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    return {name: _svg(icon, data) for name, icon in data["icons"].items() if not icon.get("hidden")}


def _svg(icon: Mapping[str, object], package: Mapping[str, object]) -> str:
    def value(key: str, default: int) -> object:
        return icon.get(key, package.get(key, default))

    width, height = value("width", 16), value("height", 16)
    box = f"{value('left', 0)} {value('top', 0)} {width} {height}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'
    )


def render(icon: Icon, size_px: int) -> Image.Image:
    """Draw an icon over white.

    Args:
        icon: what to draw.
        size_px: width and height of the square image.

    Returns:
        An RGB image; a non-square icon is centred.
    """
    import resvg_py
    from PIL import Image

    drawn = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=icon.svg, width=size_px)))).convert(
        "RGBA"
    )
    if drawn.height > size_px:
        drawn = drawn.resize(
            (max(1, drawn.width * size_px // drawn.height), size_px), Image.Resampling.LANCZOS
        )
    canvas = Image.new("RGBA", (size_px, size_px), "white")
    canvas.alpha_composite(drawn, ((size_px - drawn.width) // 2, (size_px - drawn.height) // 2))
    return canvas.convert("RGB")


def render_array(icons: Iterable[Icon], size_px: int = TRAINING_RESOLUTION_PX) -> np.ndarray:
    """Draw icons at training resolution: drawn large, then reduced with Lanczos, as a loader of images would
    do.

    Args:
        icons: what to draw.
        size_px: side of the square images.

    Returns:
        uint8, (n, size_px, size_px, 3).
    """
    import numpy as np
    from PIL import Image

    resized = [
        render(icon, 2 * size_px).resize((size_px, size_px), Image.Resampling.LANCZOS) for icon in icons
    ]
    return np.stack([np.asarray(image) for image in resized])


@dataclass(frozen=True)
class Pool:
    """Icons with their drawings."""

    icons: tuple[Icon, ...]
    pixels: np.ndarray  # uint8, (n, 32, 32, 3), row i shows icons[i]
