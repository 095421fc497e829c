"""The service against its own description, under load, and while Neo4j is away."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from matchgraph.drawing import Drawing
from matchgraph.graphdb.connection import Settings
from matchgraph.graphdb.models import Model
from matchgraph.graphdb.prompt_models import MAX_PROMPT_CHARACTERS, Prompt, Score, Variant
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.graphdb.runner import Runner
from matchgraph.graphdb.server.managed import ManagedServer
from matchgraph.minizoo import ROOT
from matchgraph.routing import encoders
from matchgraph.routing.errors import AddressUnusable
from matchgraph.routing.fitting import fit_router
from matchgraph.routing.prompts import split
from matchgraph.routing.service import MAX_BODY_BYTES, MAX_PROMPTS, Served, create_app
from matchgraph.routing.serving import KEEP_ALIVE_S, listening, load_served, web_server
from matchgraph.routing.store import RouterStore
from matchgraph.training.measure.prompts import PromptEncoder, load_prompt_encoder

PATIENCE_S = 120
CLIP = ROOT / "probes" / "clip"
VARIANTS = [Variant(f"m@{steps}", "m", Drawing(steps), float(steps)) for steps in (1, 4, 20)]
SUBJECTS = ("cat", "dog", "apple", "car", "house", "tree", "clock", "flag", "fish", "star")
COLOURS = ("red", "green", "blue", "white", "black", "golden", "pink", "grey")


def texts() -> list[str]:
    return [f"a {colour} {subject}" for subject in SUBJECTS for colour in COLOURS]


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return load_prompt_encoder(CLIP)


class Line:
    """A connection to the server that can be cut and laid again, which is sooner done than the server's end.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self.server = port
        self.port = 0
        self.laid: list[socket.socket] = []

    def lay(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self.laid = [listener]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        for end in self.laid:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self.server))
                self.laid += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass_on(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def line(runner: Runner) -> Iterator[Line]:
    made = Line(int(runner.uri.rpartition(":")[2]))
    made.lay()
    yield made
    made.cut()


@pytest.fixture(scope="module")
def hasty(settings: Settings, runner: Runner, line: Line) -> Iterator[Runner]:
    """A runner that soon gives up, over the line; not sooner than a loaded machine makes a connection."""
    password = ManagedServer(settings.home).password_file.read_text(encoding="utf-8").strip()
    with Runner(f"bolt://127.0.0.1:{line.port}", runner.user, password, patience_s=3.0) as connected:
        yield connected


@pytest.fixture(scope="module")
def served(
    runner: Runner, hasty: Runner, encoder: PromptEncoder, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Served]:
    """A router by neighbours and one by a network, over prompts whose scores follow from their subject."""
    MatchingGraph(runner).clear()
    MatchingGraph(runner).save_models([Model("m")])
    graph = PromptGraph(runner)
    graph.save_variants(VARIANTS)
    wanted = texts()
    encoded = encoder.encode(wanted)
    prompts = [
        Prompt(text, name, encoder.hash, embedding)
        for text, name, embedding in zip(wanted, split(len(wanted)), encoded.embeddings, strict=True)
    ]
    graph.save_prompts(prompts)
    generator = np.random.default_rng(0)
    for metric in ("clip_score", "sharpness"):
        graph.save_scores(
            Score(variant.id, prompt.id, metric, place * generator.uniform(0, 1), 4, 0.1, "scorer")
            for prompt in prompts
            for place, variant in enumerate(VARIANTS)
        )
    runner.read("CALL db.awaitIndexes(30)")
    store = RouterStore(tmp_path_factory.mktemp("served"))
    for metric, kind in (("clip_score", "knn"), ("sharpness", "network")):
        fitted, *kept = fit_router(graph.table(metric), kind, encoder=encoder, neighbours=8)
        store.save(replace(fitted, lam=0.01), *kept)
    return load_served(store, PromptGraph(hasty), str(CLIP))


def test_a_port_that_is_taken_is_named_before_anything_is_loaded() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AddressUnusable, match=f"port {port} of 127.0.0.1 is used .* --port"):
            listening("127.0.0.1", port)
    with pytest.raises(AddressUnusable, match="--host"):
        listening("192.0.2.1", 0)
    with listening("127.0.0.1", 0) as free:
        assert free.getsockname()[1] > 0


@pytest.fixture(scope="module")
def client(served: dict[str, Served], hasty: Runner) -> TestClient:
    return TestClient(create_app(served, hasty.verify), raise_server_exceptions=False)


@pytest.mark.slow
def test_it_decides_as_the_router_does(client: TestClient, served: dict[str, Served]) -> None:
    for metric in ("clip_score", "sharpness"):
        wanted = [*texts()[:5], "an altogether different thing, oil on canvas, trending"]
        answer = client.post("/v1/route", json={"prompts": wanted, "metric": metric, "lambda": 0.02})
        assert answer.status_code == 200, answer.text
        expected = served[metric].router.decide(wanted, 0.02)
        for given, decision in zip(answer.json()["decisions"], expected, strict=True):
            assert (given["variant"], given["basis"]) == (decision.variant, decision.basis)
            assert given["lambda"] == 0.02
            assert given["quality"] == pytest.approx(decision.quality)
            assert [option["cost"] for option in given["options"]] == [1, 4, 20]
        single = client.post("/v1/route", json={"prompt": wanted[0], "metric": metric, "lambda": 0.02})
        [alone], first = single.json()["decisions"], answer.json()["decisions"][0]
        assert alone.keys() == first.keys()
        assert (alone["variant"], alone["basis"]) == (first["variant"], first["basis"])
        # A product of one row is rounded otherwise than one of several, on some processors.
        for name in ("quality", "similarity"):
            assert alone[name] == pytest.approx(first[name])


def test_a_budget_becomes_the_lambda_of_the_validation_prompts(
    client: TestClient, served: dict[str, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = client.post("/v1/route", json={"prompts": ["a red cat"], "budget": 3.0})
    assert few.status_code == 409
    assert "validation prompts are too few to calibrate on" in few.json()["detail"]
    monkeypatch.setattr(encoders, "FEWEST_VALIDATION", 1)
    lams = []
    for budget in (1.0, 3.0, 8.0, 100.0):
        answer = client.post("/v1/route", json={"prompts": ["a red cat"], "budget": budget})
        lams.append(answer.json()["decisions"][0]["lambda"])
    assert lams == sorted(lams, reverse=True)
    assert lams[-1] == 0
    assert lams[1] == pytest.approx(served["clip_score"].lambda_for(3.0))
    refused = client.post("/v1/route", json={"prompts": ["a red cat"], "budget": 0.5})
    assert refused.status_code == 409
    assert "below 1" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 422, "request"),
        (b"{", 422, "not JSON"),
        (b"\xff\xfe", 422, "not JSON"),
        (b"[" * 100_000, 400, "body"),
        (b"null", 422, "object"),
        (b"{}", 422, "request: give `prompts` or `prompt`"),
        (b'{"prompt": "a", "prompts": ["b"]}', 422, "not both"),
        (json.dumps({"prompts": []}).encode(), 422, "prompts: "),
        (json.dumps({"prompts": [""]}).encode(), 422, "prompts.0: "),
        (json.dumps({"prompts": [" \t\u3000"]}).encode(), 422, "prompts.0: "),
        (json.dumps({"prompts": ["a\x00"]}).encode(), 422, "prompts.0: "),
        (b'{"prompts": ["\\ud800"]}', 422, "prompts.0: "),
        (b'{"prompts": ["a"], "\\ud800": 1}', 422, "unicode"),
        (json.dumps({"prompts": [5]}).encode(), 422, "string"),
        (json.dumps({"prompts": "a cat"}).encode(), 422, "list"),
        (json.dumps({"prompts": ["x" * (MAX_PROMPT_CHARACTERS + 1)]}).encode(), 422, "at most 4000"),
        (json.dumps({"prompts": ["a"] * (MAX_PROMPTS + 1)}).encode(), 422, "at most 64"),
        (b'{"prompts": ["a"], "budget": NaN}', 422, "budget: "),
        (b'{"prompts": ["a"], "budget": 1e999}', 422, "budget: "),
        (b'{"prompts": ["a"], "lambda": -1}', 422, "lambda: "),
        (b'{"prompts": ["a"], "lambda": 1, "budget": 5}', 409, "not both"),
        (b'{"prompts": ["a"], "metric": "beauty"}', 404, "'beauty'"),
        (b"x" * (MAX_BODY_BYTES + 1), 413, "over"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_cannot_be_met_is_told_in_one_line(
    client: TestClient, body: bytes, status: int, message: str
) -> None:
    answer = client.post("/v1/route", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert message in detail
    assert "\n" not in detail


@pytest.mark.slow
def test_a_prompt_of_the_largest_size_and_the_fullest_batch_are_answered(client: TestClient) -> None:
    # In escapes of six bytes, the largest body there is.
    body = json.dumps({"prompts": ["\u732b" * MAX_PROMPT_CHARACTERS] * MAX_PROMPTS}).encode()
    answer = client.post("/v1/route", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["decisions"]) == MAX_PROMPTS


def test_metrics_count_what_was_decided(client: TestClient) -> None:
    def value(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))

    before = {name: value(name) for name in ("matchgraph_decisions_total", "matchgraph_cost_total")}
    answer = client.post("/v1/route", json={"prompts": texts()[:7]}).json()
    spent = sum(decision["cost"] for decision in answer["decisions"])
    assert value("matchgraph_decisions_total") == before["matchgraph_decisions_total"] + 7
    assert value("matchgraph_cost_total") == pytest.approx(before["matchgraph_cost_total"] + spent)


@pytest.fixture
def live(served: dict[str, Served], hasty: Runner) -> Iterator[str]:
    """The service on a port of its own."""
    server = web_server(create_app(served, hasty.verify))
    assert server.config.timeout_keep_alive == KEEP_ALIVE_S > 60
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(PATIENCE_S)


def test_its_page_of_documentation_needs_no_network(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "//" not in page
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert files
    assert {client.get(file).status_code for file in files} == {200}


@pytest.mark.slow
def test_it_keeps_to_its_own_description(live: str, tmp_path: Path) -> None:
    """Whatever fits the description is answered, and what does not is refused, as the description says."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{live}/openapi.json"]
    options = ["--max-examples", "10", "--generation-deterministic", "--no-color"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_a_hundred_clients_at_once_get_their_own_answers(live: str, served: dict[str, Served]) -> None:
    wanted = texts()
    expected = {
        text: decision.variant
        for text, decision in zip(wanted, served["clip_score"].router.decide(wanted, 0.03), strict=True)
    }
    assert len(set(expected.values())) > 1

    async def ask(number: int, session: httpx.AsyncClient) -> None:
        text = wanted[number % len(wanted)]
        answer = await session.post(f"{live}/v1/route", json={"prompts": [text], "lambda": 0.03})
        assert answer.status_code == 200, answer.text
        assert answer.json()["decisions"][0]["variant"] == expected[text]

    async def all_at_once() -> None:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(timeout=PATIENCE_S, limits=limits) as session:
            await asyncio.gather(*(ask(number, session) for number in range(100)))

    asyncio.run(all_at_once())


@pytest.mark.slow
def test_it_says_so_while_neo4j_is_away_and_goes_on_when_it_is_back(live: str, line: Line) -> None:
    asked = {"prompts": ["a red cat"], "lambda": 0.03}
    before = httpx.post(f"{live}/v1/route", json=asked, timeout=PATIENCE_S).json()
    assert httpx.get(f"{live}/readyz", timeout=PATIENCE_S).status_code == 200
    line.cut()
    try:
        away = httpx.post(f"{live}/v1/route", json=asked, timeout=PATIENCE_S)
        assert (away.status_code, away.headers["Retry-After"]) == (503, "5")
        assert "bolt" not in away.text
        assert httpx.get(f"{live}/readyz", timeout=PATIENCE_S).status_code == 503
        assert httpx.get(f"{live}/healthz", timeout=PATIENCE_S).status_code == 200
        # A network needs no graph.
        other = httpx.post(f"{live}/v1/route", json={**asked, "metric": "sharpness"}, timeout=PATIENCE_S)
        assert other.status_code == 200
    finally:
        line.lay()
    assert httpx.get(f"{live}/readyz", timeout=PATIENCE_S).status_code == 200
    assert httpx.post(f"{live}/v1/route", json=asked, timeout=PATIENCE_S).json() == before
