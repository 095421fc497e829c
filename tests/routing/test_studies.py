"""What a study of the graph's metrics is made of: other wordings, and the prompts that it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matchgraph.routing import evaluation, studies
from matchgraph.routing.errors import BadPromptPairs, UnusableEstimator
from matchgraph.routing.paraphrases import Rewordings, read_paraphrases
from matchgraph.training.measure.prompts import EncodedPrompts
from tests.routing import circle

LOAD = "matchgraph.training.measure.prompts.load_prompt_encoder"


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> circle.Graph:
    graph = circle.Graph(circle.table(60, spread=0.05))
    graph.metrics = lambda: {"clip_score": 180}  # type: ignore[attr-defined]
    monkeypatch.setattr(studies, "PromptGraph", lambda graph: graph)
    monkeypatch.setattr(LOAD, lambda _: circle.Encoder())
    monkeypatch.setattr(studies, "by_rule", lambda *_: None)
    return graph


def written(folder: Path, *pairs: tuple[str, str]) -> Path:
    path = folder / "pairs.csv"
    path.write_text("\n".join(["Prompt,paraphrase", *map(",".join, pairs)]), encoding="utf-8")
    return path


def test_other_wordings_are_those_of_prompts_that_are_compared(
    graph: circle.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(studies, "evaluate_table", lambda *_, **given: asked.update(given))
    texts = [prompt.text for prompt in graph.prompts()]
    graph.scores.mean[7, 2] = np.nan
    pairs = [(texts[9], "1.5"), (texts[7], "1.0"), ("unknown", "2.0"), (texts[0], "0.1"), (texts[9], "1.6")]
    found = studies.evaluate(graph, "clip", paraphrases=written(tmp_path, *pairs))  # type: ignore[arg-type]
    assert found.left_out == {"clip_score": [texts[7]]}
    given = asked["rewordings"]["as given"]
    # Without the eighth prompt, the tenth is the ninth.
    assert given.rows.tolist() == [8, 0, 8]
    assert given.encoded.embeddings == pytest.approx(
        circle.Encoder().encode(["1.5", "0.1", "1.6"]).embeddings
    )
    assert given.of(np.array([8, 5])).tolist() == [0, 2]
    with pytest.raises(BadPromptPairs, match="None of the 1 pairs is of a prompt"):
        studies.evaluate(graph, "clip", paraphrases=written(tmp_path, (texts[7], "1")))  # type: ignore[arg-type]
    with pytest.raises(UnusableEstimator, match="read by what read the prompts, probe"):
        studies.evaluate(graph, paraphrases=written(tmp_path, *pairs))  # type: ignore[arg-type]


def test_wordings_of_test_prompts_are_decided_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "another_world", lambda *_, **__: None)
    monkeypatch.setattr(evaluation, "compare", lambda *_, **__: None)
    monkeypatch.setattr(evaluation, "standing", lambda *_, **__: None)
    table = circle.table(60, spread=0.05)
    angles = [float(prompt.text) for prompt in table.prompts]
    encoder = circle.Encoder()
    read = EncodedPrompts(table.embeddings)
    rows = np.array([3, 3, 40, 12])
    same = Rewordings(rows, encoder.encode([str(angles[row]) for row in rows]))
    apart = Rewordings(rows, encoder.encode([str(np.pi - angles[row]) for row in rows]))
    seen: list[tuple[int, int]] = []
    study = evaluation.evaluate(
        table,
        read,
        rewordings={"same": same, "apart": apart},
        folds=3,
        on_progress=lambda _, done, total: seen.append((done, total)),
    )
    assert study.rewordings["same"].same.value == 1
    assert (study.rewordings["same"].wordings, study.rewordings["same"].same.count) == (4, 3)
    assert study.rewordings["apart"].same.value < 1
    # Topics are replaced above: three turns and three routers.
    assert seen == [(done, 3 + 8 + 3) for done in range(7)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,other\na,b", "needs columns prompt and paraphrase; it has 'prompt', 'other'"),
        ("prompt,paraphrase\na,b\na, ", "row 2: A prompt is blank"),
        ("prompt,paraphrase", "has no rows"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadPromptPairs, match=message):
        read_paraphrases(path)
