"""The student draws, an oracle judges, and the teacher refines rejected images or draws them again.

If anything fails after the student has drawn, its images are returned with the failure.

Source:
    Starodubcev et al., "Your Student is Better Than Expected" (2024), section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from matchgraph.collaboration.errors import InvalidPlan
from matchgraph.collaboration.plan import Plan, price
from matchgraph.training.errors import OutOfMemory, TrainingError, first_line

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from matchgraph.drawing import Drawing
    from matchgraph.training.measure.quality import Scorer
    from matchgraph.training.pipelines.encoding import PromptRows
    from matchgraph.training.pipelines.loading import LoadedPipeline
    from matchgraph.training.pipelines.rollback import Start
    from matchgraph.training.sampling.generate import Batch

Verdict = Literal["accepted", "refined", "regenerated", "kept"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """An image, with who drew it and why.

    Attributes:
        place: of its prompt among those asked for.
        image: mode RGB.
        score: the oracle's, of the student's image; None where it could not score it.
        decision: `accepted` and `kept` images are the student's: good enough, or kept because something
            failed; the others are the teacher's.
        steps: denoising steps made for it, by both.
        tflop: what they cost, see `collaboration.plan.price`.
        failure: what failed, in one line; None where nothing did.
    """

    place: int
    image: Image.Image
    score: float | None
    decision: Verdict
    steps: int
    tflop: float
    failure: str | None = None


@dataclass(frozen=True, eq=False)
class _Draft:
    """A student's image, its latents in main memory, and its score or why it has none."""

    place: int
    image: Image.Image
    latents: torch.Tensor
    score: float | None
    failure: str | None


@dataclass(frozen=True, eq=False)
class _Asked:
    """What to draw: the fields have equal lengths."""

    prompts: Sequence[str]
    numbers: Sequence[int | str]
    pictures: Sequence[Image.Image] | None
    controls: Sequence[Image.Image] | None
    _encoded: dict[LoadedPipeline, PromptRows] = field(default_factory=dict)

    def encoded(self, loaded: LoadedPipeline) -> PromptRows:
        """The prompts, by a model's encoders.

        All of them at its first drawing, be it that of a few rejected ones: an image is then to the last bit
        what the model makes of the same prompts alone.
        """
        from matchgraph.training.pipelines.encoding import PromptRows

        if loaded not in self._encoded:
            self._encoded[loaded] = PromptRows(loaded, self.prompts)
        return self._encoded[loaded]


class Collaboration:
    """A student and its teacher.

    Args:
        student: draws first.
        teacher: draws what was rejected; may be of another family, VAE or resolution: then what it refines
            passes through pixels, scaled to its own side. One or both may be inside
            `training.pipelines.controlnet.controlled`.
        scorer: the oracle; larger scores are better.
        threshold: images of at least this score are accepted; minus infinity accepts all that can be scored,
            infinity none. Or what makes it of the scores of all of the student's images, at least one: these
            are then all drawn before the first is corrected.
        plan: how.

    Raises:
        InvalidPlan: the threshold is NaN, or both are one pipeline.
        TrainingError: a pipeline cannot be priced, or the resolution does not suit it.
    """

    def __init__(
        self,
        student: LoadedPipeline,
        teacher: LoadedPipeline,
        scorer: Scorer,
        threshold: float | Callable[[Sequence[float]], float],
        plan: Plan,
    ) -> None:
        from matchgraph.training.pipelines.encoding import same_text_encoding

        if not callable(threshold) and math.isnan(threshold):
            raise InvalidPlan("The threshold is NaN: a number is needed.")
        if student is teacher:
            raise InvalidPlan("Student and teacher are the same pipeline: load it twice.")
        self._sides = {
            student: plan.student.resolution_px,
            teacher: plan.correction.drawing.resolution_px,
        }
        for loaded, side in self._sides.items():
            loaded.check_resolution(side)
        self.student, self.teacher, self.scorer = student, teacher, scorer
        self.threshold, self.plan = threshold, plan
        self._steered = {each: "controlnet" in each.pipe.components for each in (student, teacher)}
        # Encoders are as a rule the teacher's own, and then prompts need to be encoded only once.
        self._encoder = {
            student: student,
            teacher: student if same_text_encoding(student, teacher) else teacher,
        }
        self.through_pixels = self._sides[student] != self._sides[teacher] or not share_latents(
            student, teacher
        )
        self.student_tflop = price(student, plan.student)
        self.teacher_tflop = price(teacher, plan.correction.drawing)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        numbers: Sequence[int | str] | None = None,
        pictures: Sequence[Image.Image] | None = None,
        controls: Sequence[Image.Image] | None = None,
    ) -> Iterator[Outcome]:
        """Draw an image for each prompt.

        Rejected images wait until they fill a batch, so outcomes do not come in the order of the prompts.

        Args:
            prompts: at least one.
            numbers: of the images, each of which decides its image's noise with the seed; their places by
                default.
            pictures: to edit, one for each prompt, if the plan has a strength (SDEdit).
            controls: control images, one for each prompt, if ControlNets steer the pipelines.

        Yields:
            One outcome a prompt.

        Raises:
            InvalidPlan: prompts, numbers, pictures and control images are not as many, there are no prompts,
                or control images without a ControlNet or the other way round.
            TrainingError: a problem of the pipelines that the user can fix; images yielded before stay valid.
        """
        named = list(range(len(prompts)) if numbers is None else numbers)
        count = len(prompts)
        if not count or len(named) != count:
            raise InvalidPlan(
                f"{count} prompts and {len(named)} numbers: as many of each are needed, and at least one."
            )
        if (pictures is None) != (self.plan.strength is None) or (pictures and len(pictures) != count):
            raise InvalidPlan("To edit, give a strength and one picture per prompt, or neither.")
        if any(self._steered.values()) != (controls is not None) or (controls and len(controls) != count):
            raise InvalidPlan("With ControlNets, give one control image per prompt; without, give none.")
        asked = _Asked(prompts, named, pictures, controls)
        waiting: list[_Draft] = []
        with closing(self._drafts(asked)) as drawn:
            drafts: Iterable[_Draft] = drawn
            threshold = self.threshold
            if callable(threshold):
                drafts = list(drawn)
                scores = [draft.score for draft in drafts if draft.score is not None]
                threshold = threshold(scores) if scores else math.inf
            for draft in drafts:
                if draft.score is None or draft.score >= threshold:
                    yield self._own(draft, "kept" if draft.failure else "accepted", draft.failure)
                    continue
                waiting.append(draft)
                if len(waiting) == self.plan.batch_size:
                    yield from self._corrected(waiting, asked)
                    waiting = []
        if waiting:
            yield from self._corrected(waiting, asked)

    def _drafts(self, asked: _Asked) -> Generator[_Draft, None, None]:
        """The student's images, scored."""
        places = range(len(asked.prompts))
        begun = self._begun(self.student, asked.pictures)
        first = 0
        with closing(self._draw(self.student, self.plan.student, asked, places, begun)) as batches:
            for batch in batches:
                own = places[first : first + len(batch.images)]
                first += len(own)
                scores = scores_of(self.scorer, [asked.prompts[place] for place in own], batch.images)
                rows = zip(own, batch.images, batch.latents.cpu(), scores, strict=True)
                for place, image, latents, (score, failure) in rows:
                    yield _Draft(place, image, latents, score, failure)

    def _own(self, draft: _Draft, decision: Verdict, failure: str | None) -> Outcome:
        """The student's image as the outcome."""
        steps, tflop = self.plan.student.stated_steps, self.student_tflop
        return Outcome(draft.place, draft.image, draft.score, decision, steps, tflop, failure)

    def _corrected(self, drafts: Sequence[_Draft], asked: _Asked) -> Iterator[Outcome]:
        """Let the teacher improve rejected images; those that it cannot are the student's."""
        correction, plan = self.plan.correction, self.plan
        failure = None
        try:
            images = self._by_teacher(drafts, asked)
        except Exception as error:
            if isinstance(error, TrainingError) and not isinstance(error, OutOfMemory):
                raise
            # Whatever a device or library raises, out of memory above all: the images are there already.
            failure = f"the teacher failed: {first_line(error)}"
        # Here the error, which may hold what filled the memory, is gone.
        if failure is not None and len(drafts) > 1:
            half = len(drafts) // 2
            for part in (drafts[:half], drafts[half:]):
                yield from self._corrected(part, asked)
            return
        if failure is not None:
            [draft] = drafts
            yield self._own(draft, "kept", failure)
            return
        decision: Verdict = "regenerated" if correction.rollback is None else "refined"
        steps = plan.student.stated_steps + correction.drawing.stated_steps
        for draft, image in zip(drafts, images, strict=True):
            tflop = self.student_tflop + self.teacher_tflop
            yield Outcome(draft.place, image, draft.score, decision, steps, tflop)

    def _by_teacher(self, drafts: Sequence[_Draft], asked: _Asked) -> list[Image.Image]:
        correction = self.plan.correction
        places = [draft.place for draft in drafts]
        if correction.rollback is None:
            pictures = None if asked.pictures is None else [asked.pictures[place] for place in places]
            start = self._begun(self.teacher, pictures)
        else:
            start = self._start(drafts, correction.rollback)
        batches = self._draw(self.teacher, correction.drawing, asked, places, start)
        return [image for batch in batches for image in batch.images]

    def _start(self, drafts: Sequence[_Draft], rollback: float) -> Start:
        import torch

        from matchgraph.training.pipelines.rollback import Start
        from matchgraph.training.sampling.generate import start_with

        if self.through_pixels:
            images = [draft.image for draft in drafts]
            return start_with(self.teacher, images, self._sides[self.teacher], rollback)
        latents = torch.stack([draft.latents for draft in drafts])
        return Start(latents.to(self.teacher.device), rollback)

    def _begun(self, loaded: LoadedPipeline, pictures: Sequence[Image.Image] | None) -> Start | None:
        from matchgraph.training.sampling.generate import start_with

        if pictures is None or self.plan.strength is None:
            return None
        return start_with(loaded, pictures, self._sides[loaded], self.plan.strength)

    def _draw(
        self,
        loaded: LoadedPipeline,
        drawing: Drawing,
        asked: _Asked,
        places: Sequence[int],
        start: Start | None,
    ) -> Generator[Batch, None, None]:
        from matchgraph.training.config import SampleConfig
        from matchgraph.training.sampling.generate import stream_batches

        plan = self.plan
        config = SampleConfig(len(places), drawing, plan.seed, plan.batch_size)
        controls = asked.controls if self._steered[loaded] else None
        return stream_batches(
            loaded,
            None,
            [asked.prompts[place] for place in places],
            config,
            numbers=[asked.numbers[place] for place in places],
            start=start,
            controls=None if controls is None else [controls[place] for place in places],
            control_scale=plan.control_scale,
            encoded=asked.encoded(self._encoder[loaded]),
        )


def share_latents(one: LoadedPipeline, other: LoadedPipeline) -> bool:
    """Whether two pipelines can exchange latents: same VAE, same form."""
    from matchgraph.training.pipelines.loading import equal_weights

    own, its = one.pipe.vae, other.pipe.vae
    return (
        type(one.family).as_called is type(other.family).as_called
        and all(
            own.config.get(name) == its.config.get(name)
            for name in ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
        )
        and equal_weights(own, its)
    )


def scores_of(
    scorer: Scorer, prompts: Sequence[str], images: Sequence[Image.Image]
) -> list[tuple[float | None, str | None]]:
    """Score images, and continue if that fails.

    Args:
        scorer: the oracle.
        prompts: n of them.
        images: as many.

    Returns:
        A score and None for each image, or None and what failed, in one line.
    """
    try:
        values = [float(value) for value in scorer.score(prompts, images)]
    except Exception as error:
        # Whatever a scorer raises: one image that it cannot read must not cost the others their scores.
        if len(images) == 1:
            return [(None, f"{scorer.metric} failed: {first_line(error)}")]
        alone = [scores_of(scorer, [prompt], [image]) for prompt, image in zip(prompts, images, strict=True)]
        return [found for [found] in alone]
    return [(None, f"{scorer.metric} is {value}") if math.isnan(value) else (value, None) for value in values]
