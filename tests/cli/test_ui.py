"""`matchgraph ui` before it listens."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from matchgraph.cli.ui import TOKEN_VARIABLE, ui


@pytest.mark.parametrize("token", ["short", "sixteen-chars-&b=1", "sixteen characters", "sixteen-chars-é!"])
def test_a_token_that_an_address_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch, token: str):
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    found = CliRunner().invoke(ui, ["--port", "0", "--no-launch"])
    assert found.exit_code == 2
    assert f"{TOKEN_VARIABLE} needs 16 or more characters" in found.stderr
