"""Which models can be used: those that a graphics card can train, and those under a licence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from matchgraph.errors import Error
from matchgraph.predictor.recipes import Method

if TYPE_CHECKING:
    from pathlib import Path

    from matchgraph.graphdb.models import Model
    from matchgraph.graphdb.repository import MatchingGraph

# As `ingest models` reads it from a model card, and as `ingest published` has it.
LICENCES = ("license", "published_license")
PUBLISHED_MEMORY = "published_memory_{}_gib"
FITS = "fits"


class NothingUsable(Error):
    """No model of the graph meets the conditions."""


@dataclass(frozen=True)
class Conditions:
    """What a model must meet; one of which nothing is known does not.

    Attributes:
        fits_gib: memory of a graphics card in GiB: a fine-tuning at the default settings must fit, by a plan
            made from the model's folder, or by a published one for a card of at most this size.
        licences: acceptable ones, whatever their case, spaces and hyphens; `*` stands for any text.
    """

    fits_gib: float | None = None
    licences: tuple[str, ...] = ()

    def applied(
        self, graph: MatchingGraph, home: Path, method: Method | None = None
    ) -> tuple[Method, tuple[str, ...]]:
        """A method that chooses from the models that meet them.

        Args:
            graph: the graph.
            home: the data folder, which keeps what models take.
            method: the method; the default one if None.

        Returns:
            It, and a sentence that names the models left out and why; none where none are.

        Raises:
            NothingUsable: no model is left.
        """
        method = method or Method()
        if self.fits_gib is None and not self.licences:
            return method, ()
        models = [model for model in graph.models() if not method.models or model.id in method.models]
        left_out: dict[str, str] = {}
        for model in models:
            if self.licences and (reason := _not_licensed(model, self.licences)):
                left_out[model.id] = reason
        if self.fits_gib is not None:
            rest = [model for model in models if model.id not in left_out]
            left_out |= _too_large(rest, self.fits_gib, home)
        note = "; ".join(f"{model} ({reason})" for model, reason in sorted(left_out.items()))
        kept = tuple(model.id for model in models if model.id not in left_out)
        if not kept:
            raise NothingUsable(f"No model of the graph meets the conditions: {note or 'it has none'}.")
        return replace(method, models=kept), ((f"left out: {note}.",) if note else ())


def _not_licensed(model: Model, licences: Sequence[str]) -> str | None:
    own = next((model.properties[name] for name in LICENCES if name in model.properties), None)
    if own is None:
        return "its licence is not known"
    names = str(own).split(" or ")
    wanted = any(fnmatchcase(_plain(name), _plain(licence)) for name in names for licence in licences)
    return None if wanted else f"its licence is {' or '.join(names)}"


def _plain(licence: str) -> str:
    """A licence's name without what publishers write in different ways: case, spaces, hyphens."""
    return re.sub(r"[\s_-]", "", licence.casefold())


def _too_large(models: Sequence[Model], fits_gib: float, home: Path) -> dict[str, str]:
    from matchgraph.ingest.errors import SourceChanged
    from matchgraph.ingest.runs.config import Execution, RunConfig
    from matchgraph.ingest.runs.memory import memory_of_models
    from matchgraph.ingest.runs.sources import Sources
    from matchgraph.ingest.tables.published import CARDS_GIB

    found = {}
    sources, execution = Sources(), Execution(device="cpu", gpu_memory=fits_gib)
    for model in models:
        planned = None
        # Without the folder there may still be a published plan.
        with suppress(SourceChanged):
            # What `--precision auto` comes to on such a card.
            own = {model.id: RunConfig(precision="bf16")}
            planned = memory_of_models(sources, {model.id: model}, own, execution, home).get(model.id)
        if planned is not None:
            if not planned.fits:
                found[model.id] = f"fine-tuning takes {planned.peak_gib:.3g} GiB"
            continue
        plans = [
            str(model.properties[name])
            for card in CARDS_GIB
            if card <= fits_gib and (name := PUBLISHED_MEMORY.format(card)) in model.properties
        ]
        if not plans:
            found[model.id] = "the memory that fine-tuning takes is not known"
        elif not plans[-1].startswith(FITS):
            found[model.id] = plans[-1]
    return found
