"""How long runs take: estimated from runs that are done, or else from what a model computes.

A figure for planning, good to a factor of two or so where no run of the same model is done yet.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from matchgraph.graphdb.models import Model
from matchgraph.ingest.runs.entries import AFTER, BEFORE, DONE, TRAINING, Run
from matchgraph.words import SECONDS_PER_HOUR

# Backward costs about two forwards, so a training step is three: Kaplan et al. (2020), section 2.1.
FORWARDS_PER_STEP = 3
# The side at which `tflop` is counted where nothing else is known, see `training.pipelines.profile`.
PROFILED_PX = 512
# Pixels a latent for each side, of families whose own call, which is what is counted, draws at the side they
# were made for whatever is asked. Runs draw at the side that is asked.
BINNED = {"pixart": 8, "pixart_alpha": 8, "sana": 32}
# A token of a denoiser stands for 16 pixels a side: latents of 1/8, patches of 2.
TOKEN_PX = 16
# For a model of no known family: what most pipelines default to.
OTHER_STEPS, OTHER_GUIDED = 30, True
# The device of a machine without a GPU.
CPU = "cpu"
# Where nothing at all has been measured: what one data-centre GPU comes to in practice. Of a CPU, which is
# far slower, nothing is assumed.
ASSUMED_TFLOP_PER_S = 50.0
ASSUMED = f"an assumed GPU of {ASSUMED_TFLOP_PER_S:g} TFLOP/s"
UNMEASURED = "nothing measured on a CPU"
# In an estimate's basis: of runs that were done on none of the machines that it is for.
ELSEWHERE = "on another machine"


@dataclass(frozen=True)
class Estimate:
    """How long something takes.

    Args:
        seconds: on one device; None if unknown.
        basis: what that was estimated from, in words.
    """

    seconds: float | None
    basis: str

    @property
    def hours(self) -> float | None:
        """The same in hours."""
        return None if self.seconds is None else self.seconds / SECONDS_PER_HOUR


class Estimator:
    """Estimates runs.

    Args:
        runs: all runs of the ledger, of which those that are done serve as measurements.
        models: the models by id.
        gpu: whether the runs are estimated for a GPU: those that were done on a CPU say nothing of it, and
            the reverse. None where that is not known: then as the newest run of the host, and all count
            where there is none. A run of a version that did not record its device counts for both; one
            without a machine, as of the small zoo, for a CPU.
        host: name of the machine that the runs are estimated for. Its own runs count first, and set the
            scale of those of other machines. None where that is not known, and all count alike.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        models: Mapping[str, Model],
        *,
        gpu: bool | None = None,
        host: str | None = None,
    ) -> None:
        done = [
            run for run in runs if run.status == DONE and run.properties.get("training_seconds") is not None
        ]
        own = [run for run in done if host in (None, run.properties.get("host"))]
        if gpu is None and host is not None and own:
            gpu = _on_gpu(max(own, key=lambda run: run.properties.get("ended_at") or 0))
        self._models, self._gpu = models, gpu
        # By model: of a long ledger, each run is looked at once.
        self._own: dict[str, list[Run]] = defaultdict(list)
        self._others: dict[str, list[Run]] = defaultdict(list)
        for run in done:
            if gpu is None or _on_gpu(run) in (None, gpu):
                here = host in (None, run.properties.get("host"))
                (self._own if here else self._others)[run.model].append(run)
        # Over all runs, so computed once, when first asked for.
        self._slowness, self._speeds = cache(self._slowness_of), cache(self._speeds_of)

    def stage(self, stage: str, model: str, config: Mapping[str, Any]) -> Estimate:
        """Estimate one stage of a run."""
        kind = TRAINING if stage == TRAINING else AFTER
        seconds, basis = self._stage(kind, model, config)
        return Estimate(seconds, basis)

    def whole(self, model: str, config: Mapping[str, Any]) -> Estimate:
        """Estimate a run from its beginning.

        Args:
            model: the model's id.
            config: what it does, as `RunConfig.asked` gives it.
        """
        return _total([self.stage(stage, model, config) for stage in stages(config)])

    def left(self, run: Run) -> Estimate:
        """Estimate what is left of a running run, by its own pace where that is known."""
        order = stages(run.config)
        if run.progress is None or run.progress.stage not in order:
            begun = run.progress is None or run.progress.stage == "claimed"
            return self.whole(run.model, run.config) if begun else Estimate(None, "nearly done")
        position = order.index(run.progress.stage)
        estimates = [self._rest_of_stage(run)]
        estimates += [self.stage(stage, run.model, run.config) for stage in order[position + 1 :]]
        return _total(estimates)

    def _rest_of_stage(self, run: Run) -> Estimate:
        progress, pace = run.progress, run.pace
        assert progress is not None
        left = max(progress.of - progress.step, 0)
        if pace is not None and progress.step > pace.first and pace.heard > pace.began:
            per_step = (pace.heard - pace.began) / (progress.step - pace.first)
            return Estimate(max(left * per_step - (pace.now - pace.heard), 0) / 1000, "its own pace")
        whole = self.stage(progress.stage, run.model, run.config)
        if whole.seconds is None or not progress.of:
            return whole
        return Estimate(whole.seconds * left / progress.of, whole.basis)

    def _stage(self, kind: str, model: str, config: Mapping[str, Any]) -> tuple[float | None, str]:
        seconds, basis = self._as_runs_of(self._own, kind, model, config)
        if seconds is not None:
            return seconds, basis
        theirs, basis = self._as_runs_of(self._others, kind, model, config)
        if theirs is not None and (slowness := self._slowness(kind)) is not None:
            return theirs * slowness, f"{basis} {ELSEWHERE}, scaled to this machine's speed"
        work = self._tflop(model, config, kind)
        if theirs is not None:
            # What this machine computes in a second says more than how long another one took.
            if work and (speed := self._speed(kind, config, own=True)):
                return work / speed, "runs of other models"
            return theirs, f"{basis} {ELSEWHERE}"
        if kind == AFTER and self._timed_here(model) and (rate := self._property(model, "throughput")):
            scale = (config["resolution_px"] / PROFILED_PX) ** 2 * self._steps(model, config)
            return config["samples"] / rate * scale / self._steps(model, {}), "the model's throughput"
        if not work:
            return None, "nothing known about this model"
        if speed := self._speed(kind, config, own=True):
            return work / speed, "runs of other models"
        if speed := self._speed(kind, config, own=False):
            return work / speed, f"runs of other models {ELSEWHERE}"
        if self._gpu is False:
            return None, UNMEASURED
        return work / ASSUMED_TFLOP_PER_S, ASSUMED

    def _as_runs_of(
        self, runs: Mapping[str, Sequence[Run]], kind: str, model: str, config: Mapping[str, Any]
    ) -> tuple[float | None, str]:
        """What a stage takes by the rate of a model's runs, those with the same settings if there are any."""
        bases: Sequence[tuple[str, Callable[[Mapping[str, Any]], bool]]] = (
            ("runs of this model", lambda other: _setting(other, kind) == _setting(config, kind)),
            ("runs of this model with other settings", lambda _: True),
        )
        for basis, alike in bases:
            rates = [self._rate(run, kind) for run in runs.get(model, ()) if alike(run.config)]
            if known := list(filter(None, rates)):
                return median(known) * _amount(config, kind, self._steps(model, config)), basis
        return None, ""

    def _rate(self, run: Run, kind: str) -> float:
        return _seconds(run, kind) / _amount(run.config, kind, self._steps(run.model, run.config))

    def _slowness_of(self, kind: str) -> float | None:
        """How many times as long this machine takes as the others did, by the models that ran on both with
        the same settings on the same kind of device; None where none did.
        """
        ratios = []
        for model, runs in self._own.items():
            theirs = defaultdict(list)
            for run in self._others.get(model, ()):
                theirs[_setting(run.config, kind), _on_gpu(run)].append(self._rate(run, kind))
            for run in runs:
                known = list(filter(None, theirs.get((_setting(run.config, kind), _on_gpu(run)), ())))
                if known and (rate := self._rate(run, kind)):
                    ratios.append(rate / median(known))
        return median(ratios) if ratios else None

    def _speed(self, kind: str, config: Mapping[str, Any], *, own: bool) -> float | None:
        """TFLOP a second of this machine's runs or the others', those in the same precision if there are any;
        None without any.
        """
        known = self._speeds(kind, own)
        alike = [speed for given, speed in known if given == config.get("precision")]
        return median(alike or [speed for _, speed in known]) if known else None

    def _speeds_of(self, kind: str, own: bool) -> list[tuple[str | None, float]]:
        """TFLOP a second of runs, each with the precision that it was done in."""
        return [
            (run.config.get("precision"), work / seconds)
            for runs in (self._own if own else self._others).values()
            for run in runs
            if (work := self._tflop(run.model, run.config, kind)) and (seconds := _seconds(run, kind))
        ]

    def _tflop(self, model: str, config: Mapping[str, Any], kind: str) -> float:
        """TFLOP of a run's training, or of one of its samplings; 0 where nothing is known."""
        steps, guided = self._steps(model, {}), self._guided(model, config)
        if whole := self._property(model, "tflop"):
            default = self._guided(model, {})
            forward = whole / (steps * default) * (config["resolution_px"] / self._counted_px(model)) ** 2
        elif params := self._property(model, "params"):
            forward = 2 * params * (config["resolution_px"] / TOKEN_PX) ** 2 / 1e12
        else:
            return 0.0
        if kind == TRAINING:
            return forward * FORWARDS_PER_STEP * config["steps"] * config["batch_size"]
        return forward * self._steps(model, config) * guided * config["samples"]

    def _counted_px(self, model: str) -> float:
        """The side of the image that `tflop` is of."""
        counted = self._property(model, "tflop_resolution_px") or PROFILED_PX
        unit = BINNED.get(self._family(model))
        if unit is None:
            return counted
        try:
            folder = Path(str(self._models[model].properties["source"]))
            config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
            return config["sample_size"] * unit
        except (OSError, ValueError, KeyError, TypeError):
            return counted

    def _property(self, model: str, name: str) -> float | None:
        value = self._models[model].properties.get(name) if model in self._models else None
        return value if isinstance(value, int | float) and value > 0 else None

    def _timed_here(self, model: str) -> bool:
        """Whether a model's throughput is that of the kind of device that is estimated for."""
        timed = (
            str(self._models[model].properties.get("throughput_device", "")) if model in self._models else ""
        )
        # A processor's name is followed by the number of its threads.
        return self._gpu is None or not timed or self._gpu != timed.endswith(" threads")

    def _steps(self, model: str, config: Mapping[str, Any]) -> int:
        # As its default call was counted, which knows models of few steps; else its family's.
        counted = self._property(model, "tflop_steps")
        return config.get("sampling_steps") or int(counted or _defaults(self._family(model))[0])

    def _guided(self, model: str, config: Mapping[str, Any]) -> int:
        """Forwards in a sampling step."""
        _, doubled, default = _defaults(self._family(model))
        guidance = config.get("guidance")
        if guidance is None and model in self._models:
            guidance = self._models[model].properties.get("tflop_guidance")
        return 2 if doubled and (default if guidance is None else guidance) > 1 else 1

    def _family(self, model: str) -> str:
        return str(self._models[model].properties.get("family")) if model in self._models else ""


def bases(estimates: Sequence[Estimate]) -> str:
    """What the known ones of several models' estimates were made from, in words."""
    found = "; ".join(dict.fromkeys(one.basis for one in estimates if one.seconds is not None))
    return found if len(estimates) == 1 else found.replace("of this model", "of these models")


def stages(config: Mapping[str, Any]) -> list[str]:
    """The stages of a run that take time, in order."""
    return [BEFORE, TRAINING, AFTER] if config.get("initial") else [TRAINING, AFTER]


@cache
def _defaults(family_name: str) -> tuple[int, bool, float]:
    """A family's default steps, whether guidance doubles the forwards, and its default guidance."""
    from matchgraph.training.errors import UnknownFamily
    from matchgraph.training.pipelines.families import family

    try:
        found = family(family_name)
    except UnknownFamily:
        return OTHER_STEPS, OTHER_GUIDED, 7.5
    return found.default_steps, found.classifier_free, found.default_guidance


def _on_gpu(run: Run) -> bool | None:
    """Whether a run was done on a GPU; None where nobody knows."""
    if "device" not in run.properties and "machine" in run.properties:
        return None
    return run.properties.get("device", CPU) != CPU


def _setting(config: Mapping[str, Any], kind: str) -> tuple[Any, ...]:
    names = ("batch_size", "resolution_px", "precision", "quantisation")
    return tuple(config.get(name) for name in (*names, *(() if kind == TRAINING else ("guidance",))))


def _amount(config: Mapping[str, Any], kind: str, sampling_steps: int) -> float:
    """What the time of a stage is proportional to, within one model."""
    pixels = config["resolution_px"] ** 2
    if kind == TRAINING:
        return config["steps"] * config["batch_size"] * pixels
    return config["samples"] * sampling_steps * pixels


def _seconds(run: Run, kind: str) -> float:
    if kind == TRAINING:
        return run.properties["training_seconds"]
    return run.properties.get("seconds_per_image", 0.0) * run.config["samples"]


def _total(estimates: Sequence[Estimate]) -> Estimate:
    known: Callable[[Estimate], bool] = lambda estimate: estimate.seconds is not None  # noqa: E731
    if not all(map(known, estimates)):
        return Estimate(None, next(estimate.basis for estimate in estimates if not known(estimate)))
    bases = dict.fromkeys(estimate.basis for estimate in estimates)
    return Estimate(sum(estimate.seconds or 0.0 for estimate in estimates), " and ".join(bases))
