"""How long a decision takes: one prompt at a time, read by the CLIP and routed, in process and over HTTP.

On a graph with scored prompts and fitted routers (`matchgraph route fit`):

    MATCHGRAPH_HOME=HOME python -m bench.asking --probe minizoo/probes/clip
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import httpx
import numpy as np

from bench.provenance import provenance
from matchgraph.graphdb.connection import connect, settings_from_environment
from matchgraph.graphdb.prompts import PromptGraph
from matchgraph.routing.service import create_app
from matchgraph.routing.serving import load_served, web_server
from matchgraph.routing.store import RouterStore

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("matchgraph", "neo4j", "torch", "open_clip_torch", "fastapi", "uvicorn")
WARM_UP = 20


def timed(ask: Callable[[str], object], prompts: list[str]) -> dict[str, float]:
    """Median and 95th percentile of the milliseconds that an answer takes."""
    for prompt in prompts[:WARM_UP]:
        ask(prompt)
    taken = []
    for prompt in prompts[WARM_UP:]:
        began = time.perf_counter()
        ask(prompt)
        taken.append(1000 * (time.perf_counter() - began))
    return {
        "median_ms": round(float(np.median(taken)), 2),
        "p95_ms": round(float(np.quantile(taken, 0.95)), 2),
        "prompts": len(taken),
    }


@click.command()
@click.option("--probe", required=True)
@click.option("--note", default="", help="What else the machine was busy with, for the record.")
def main(probe: str, note: str) -> None:
    """Measure, and write bench/results/asking.json."""
    with connect() as runner:
        graph = PromptGraph(runner)
        known = graph.prompts()
        asked = [prompt.text for prompt in known if prompt.split == "test"]
        served = load_served(RouterStore(settings_from_environment().home), graph, probe)
        rows: dict[str, dict[str, dict[str, float]]] = {}
        server = web_server(create_app(served, runner.verify))
        threading.Thread(target=server.run, daemon=True).start()
        while not server.started:
            time.sleep(0.01)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1/route"
        with httpx.Client() as client:
            for metric, own in served.items():
                estimator = type(own.router.estimator).__name__
                rows[f"{metric}, {estimator}"] = {
                    "in process": timed(lambda prompt, own=own: own.router.decide([prompt]), asked),
                    "over HTTP": timed(
                        lambda prompt, metric=metric: client.post(
                            address, json={"prompts": [prompt], "metric": metric}
                        ).raise_for_status(),
                        asked,
                    ),
                }
        server.should_exit = True
    result = {
        "command": f"python -m bench.asking --probe {probe}",
        **provenance(PACKAGES, note),
        "prompts_known": len(known),
        "candidates": len(next(iter(served.values())).router.variants),
        "rows": rows,
    }
    click.echo(json.dumps(rows, indent=1))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "asking.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
