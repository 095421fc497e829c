"""What the service serves: fitted routers, with their validation prompts read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from routing.errors import NoPrompts, NotFitted

if TYPE_CHECKING:
    from graphdb.prompts import PromptGraph
    from routing.service import Served
    from routing.store import RouterStore


def load_served(
    store: RouterStore, graph: PromptGraph, probe: str, metrics: Sequence[str] = ()
) -> dict[str, Served]:
    """Load routers to serve.

    Args:
        store: the fitted ones.
        graph: the prompts; asked at every decision of a nearest-neighbour router.
        probe: the CLIP that reads prompts, see `training.prompts.load_prompt_encoder`.
        metrics: which; all that are fitted by default.

    Raises:
        NotFitted: a metric has no router, or none has.
        NoPrompts: there are no validation prompts.
    """
    from routing.service import Served
    from training.prompts import load_prompt_encoder

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
