"""Drawings that stand within a page: names are names, colours are the page's, references are their own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from matchgraph.report.comparison_sections import intervals
from matchgraph.report.comparisons import selection
from matchgraph.report.landscape import Landscape, before_and_after, heatmap
from matchgraph.svg import INK

# A script, a formula, a reference and the colour that stands for the page's, all in a name.
HOSTILE = '<b>$x_1$ &" id="q"' + INK


def hostile_landscape(n: int = 2) -> Landscape:
    values = np.arange(2.0 * n).reshape(2, n)
    initial = values + 1
    initial[0, 0] = np.nan
    best = np.zeros(values.shape, dtype=bool)
    best[0] = True
    datasets = (HOSTILE, *(f"d{i}" for i in range(1, n)))
    return Landscape("fid", False, (HOSTILE, "b"), datasets, values, initial, best, {HOSTILE: n, "b": 0})


def test_names_are_escaped_and_no_formulas():
    svg = heatmap(hostile_landscape())
    root = ElementTree.fromstring(svg)
    texts = [node.text for node in root.iter() if node.tag.endswith("text")]
    assert texts.count(HOSTILE) == 2
    assert "<b>" not in svg


def test_text_takes_the_colour_of_the_page():
    svg = before_and_after(hostile_landscape())
    assert "currentColor" in svg
    assert INK not in re.sub(r">[^<]*<", "><", svg)
    assert "#ffffff" not in svg, "a white ground would be a hole in a dark page"
    assert "<style" not in svg


def test_two_drawings_share_no_reference_and_each_comes_out_the_same_again():
    one, other = heatmap(hostile_landscape()), before_and_after(hostile_landscape())
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((one, other), ids, strict=True):
        referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert referred <= own
    assert heatmap(hostile_landscape()) == one


def test_large_matrices_are_one_picture():
    large = heatmap(hostile_landscape(2000))
    assert "data:image/png;base64," in large
    assert large.count("<text") < 200


def test_what_has_no_data_has_no_drawing(outcome):
    study = hostile_landscape()
    nothing = Landscape(**{**vars(study), "initial": np.full(study.values.shape, np.nan)})
    assert before_and_after(nothing) is None
    assert intervals("x", selection({("paper", 0): outcome(method=[])})) is None
