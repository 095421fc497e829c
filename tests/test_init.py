"""What `import matchgraph` offers."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import matchgraph
from matchgraph.errors import Error


def test_everything_offered_is_there():
    assert all(getattr(matchgraph, name) is not None for name in matchgraph.__all__)
    assert set(matchgraph.__all__) <= set(dir(matchgraph))
    assert matchgraph.Error is Error
    assert matchgraph.__version__ == version("matchgraph")


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'conect'"):
        matchgraph.conect  # noqa: B018


def test_what_is_lazy_is_loaded_on_first_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(matchgraph.LAZY, "no_progress", "matchgraph.progress")
    assert matchgraph.no_progress.__module__ == "matchgraph.progress"


def test_importing_loads_nothing_but_the_errors():
    code = "import sys, matchgraph; print(sorted(m for m in sys.modules if m.startswith('matchgraph')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['matchgraph', 'matchgraph.errors']"
