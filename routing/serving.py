"""Runs the service: fitted routers, with their validation prompts read once, behind a web server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matchgraph.routing.errors import NoPrompts, NotFitted

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from matchgraph.graphdb.prompts import PromptGraph
    from matchgraph.routing.service import Served
    from matchgraph.routing.store import RouterStore

# Longer than clients keep idle connections (httpx 5 s, common proxies 60 s): whichever side closes first
# has to be the client's, or a request sent at that moment is lost.
KEEP_ALIVE_S = 75


def web_server(app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> uvicorn.Server:
    """A server of an application, to run.

    Args:
        app: see `routing.service.create_app`.
        host: the address to listen on.
        port: its port; 0 takes a free one.
    """
    import uvicorn

    config = uvicorn.Config(app, host=host, port=port, access_log=False, timeout_keep_alive=KEEP_ALIVE_S)
    return uvicorn.Server(config)


def load_served(
    store: RouterStore, graph: PromptGraph, probe: str, metrics: Sequence[str] = ()
) -> dict[str, Served]:
    """Load routers to serve.

    Args:
        store: the fitted ones.
        graph: the prompts; asked at every decision of a nearest-neighbour router.
        probe: the CLIP that reads prompts, see `training.measure.prompts.load_prompt_encoder`.
        metrics: which; all that are fitted by default.

    Raises:
        NotFitted: a metric has no router, or none has.
        NoPrompts: there are no validation prompts.
    """
    from matchgraph.routing.service import Served
    from matchgraph.training.measure.prompts import load_prompt_encoder

    wanted = list(metrics) or store.metrics()
    if not wanted:
        raise NotFitted("No router is fitted: run `matchgraph route fit`.")
    encoder = load_prompt_encoder(probe)
    texts = [prompt.text for prompt in graph.prompts() if prompt.split == "validation"]
    if not texts:
        raise NoPrompts("There are no validation prompts: add prompts with `matchgraph route prompts`.")
    encoded = encoder.encode(texts)
    served = {}
    for metric in wanted:
        fitted = store.load(metric)
        validation = store.router(fitted, graph, encoder, exact=True).compared(encoded)
        served[metric] = Served(store.router(fitted, graph, encoder), validation)
    return served
