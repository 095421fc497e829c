"""The Python API: a connection to the matching graph, and everything it can do.

    import matchgraph

    with matchgraph.connect() as graph:
        graph.ingest_minizoo()
        answer = graph.predict("noto-food")
        print(answer.ranking[0].model)

Every method calls the same function as the command of its name. Nothing heavy is imported before it is
needed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from matchgraph.drawing import Drawing
from matchgraph.errors import Error
from matchgraph.graphdb import connection
from matchgraph.graphdb.defaults import NEIGHBOURS
from matchgraph.graphdb.explore import explore
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.progress import Progress, no_progress, progress_bar

if TYPE_CHECKING:
    import pandas as pd
    import py2neo
    from graphdatascience import GraphDataScience

    from matchgraph.collaboration import workflow as collaboration_workflow
    from matchgraph.graphdb.distillation import Calibration
    from matchgraph.graphdb.prompts import Unit
    from matchgraph.ingest.runs.config import RunConfig
    from matchgraph.ingest.runs.reporter import Reporter
    from matchgraph.ingest.runs.status import RunsStatus
    from matchgraph.ingest.runs.worker import WorkerOptions, WorkSummary
    from matchgraph.ingest.runs.workflow import ChangedRuns, PlanSummary
    from matchgraph.ingest.tables.datasets import DatasetsReport
    from matchgraph.ingest.tables.facts import FactsConfig
    from matchgraph.ingest.tables.models import ModelsReport
    from matchgraph.ingest.tables.results import ResultsReading
    from matchgraph.ingest.workflow import RecordCounts
    from matchgraph.predictor.answer import Answer
    from matchgraph.predictor.evaluation import Evaluation
    from matchgraph.predictor.recipes import Method
    from matchgraph.routing.generate import Drawn
    from matchgraph.routing.router import Decision
    from matchgraph.routing.workflow import Budget, Calibrated
    from matchgraph.shortlist import Shortlisted

PROBE_VARIABLE = "MATCHGRAPH_PROBE"


def connect(
    uri: str | None = None,
    user: str | None = None,
    password: str | None = None,
    database: str | None = None,
    *,
    home: str | os.PathLike[str] | None = None,
    probe: str | os.PathLike[str] | None = None,
    progress: Progress | bool = False,
) -> Graph:
    """Connect to the matching graph.

    What is not given comes from the environment (`MATCHGRAPH_NEO4J_URI`, `_USER`, `_PASSWORD`, `_DATABASE`,
    `MATCHGRAPH_HOME`, `MATCHGRAPH_PROBE`). Without an address the managed Neo4j of the data folder is used;
    it is fetched and started if necessary.

    Args:
        uri: Bolt address of a Neo4j with Graph Data Science.
        user: its user; `neo4j` by default.
        password: its password.
        database: name of its database; the user's home database by default.
        home: data folder: the managed server, the runs' artefacts, fitted routers.
        probe: the CLIP that looks at images and reads prompts: a folder in open_clip's layout, or MODEL/TAG.
        progress: called with the step, how much of it is done, and how much there is; True shows a bar.

    Returns:
        The graph. Close it, or use it in a `with` statement.

    Raises:
        Error: there is no such server, or it lacks what is needed.

    Example:
        >>> with matchgraph.connect() as graph:
        ...     graph.cypher("RETURN 1 AS one").to_dict("records")
        [{'one': 1}]
    """
    settings = connection.settings_from_environment()
    given: dict[str, Any] = {"uri": uri, "user": user, "password": password, "database": database}
    if uri is not None:
        # The environment's settings of another server do not apply.
        settings = connection.Settings(home=settings.home)
    if home is not None:
        given["home"] = Path(home).expanduser().absolute()
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
    return Graph(settings, probe=probe or os.environ.get(PROBE_VARIABLE), progress=progress)


class Graph:
    """A matching graph. Made by `connect`.

    Attributes:
        settings: which server, and the data folder.
        probe: the CLIP that looks at images and reads prompts; None where none was given.
    """

    def __init__(
        self,
        settings: connection.Settings,
        *,
        probe: str | os.PathLike[str] | None = None,
        progress: Progress | bool = False,
    ) -> None:
        self.settings = settings
        self.probe = None if probe is None else os.fspath(probe)
        self._progress = progress
        self._runner = connection.connect(settings)
        self._graph = MatchingGraph(self._runner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the managed server keeps running."""
        self._runner.close()

    def __repr__(self) -> str:
        return f"<matchgraph.Graph at {self._runner.uri}>"

    # -- bringing facts in

    def ingest_models(
        self,
        source: str | os.PathLike[str],
        *,
        model_id: str | None = None,
        config: str | None = None,
        facts: FactsConfig | None = None,
        replace_content: bool = False,
        text: Collection[str] = (),
        skip_bad: bool = False,
    ) -> ModelsReport:
        """Add models: a table of attributes, a pipeline folder, a folder of those, or a name on the hub.

        Args:
            source: FILE.csv, a folder, a checkpoint in one safetensors file, or OWNER/NAME.
            model_id: id of the one pipeline; its name by default.
            config: for a checkpoint, a model of its architecture: a folder, a model's id or OWNER/NAME.
            facts: what is computed or measured of pipelines; parameters and TFLOP by default.
            replace_content: whether a model of the graph may be replaced by one with other weights.
            text: columns of a table to be kept as text although they look like numbers.
            skip_bad: leave bad rows and folders out instead of refusing all.

        Returns:
            What was written.

        Raises:
            Error: the source has problems; nothing was written.

        Example:
            >>> graph.ingest_models("models.csv").written
            ('sd-1.5', 'sdxl')
        """
        from matchgraph.ingest.tables.facts import FactsConfig
        from matchgraph.ingest.workflow import ingest_models

        with self._following() as on_progress:
            return ingest_models(
                self._graph,
                Path(source),
                model_id=model_id,
                config=config,
                home=self.settings.home,
                facts=facts or FactsConfig(throughput=False),
                replace_content=replace_content,
                text=text,
                skip_bad=skip_bad,
                on_progress=on_progress,
            )

    def ingest_datasets(
        self,
        *sources: str | os.PathLike[str],
        dataset_id: str | None = None,
        metrics: Sequence[str] = ("clip_fid",),
        extractors: Sequence[str] = (),
        caption_column: str | None = None,
        neighbours: int = NEIGHBOURS,
        replace_content: bool = False,
        text: Collection[str] = (),
        skip_bad: bool = False,
    ) -> DatasetsReport:
        """Add datasets: tables with embeddings, image folders, or folders of those.

        Image folders need the connection's `probe`.

        Args:
            sources: files and folders.
            dataset_id: id of the one image folder; its name by default.
            metrics: what datasets are compared with each other by.
            extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.
            caption_column: the column of the images' metadata that holds the captions.
            neighbours: of how many nearest datasets each one's distances are kept; 0 for all.
            replace_content: whether a dataset of the graph may be replaced by one with other images.
            text: columns of tables to be kept as text although they look like numbers.
            skip_bad: leave bad rows, folders and images out instead of refusing all.

        Returns:
            What was written and compared.

        Raises:
            Error: a source has problems; nothing of it was written.

        Example:
            >>> graph.ingest_datasets("datasets.csv").written
            ('cats', 'dogs')
        """
        from matchgraph.ingest.workflow import ingest_datasets

        with self._following() as on_progress:
            return ingest_datasets(
                self._graph,
                [Path(source) for source in sources],
                home=self.settings.home,
                probe=self.probe,
                extractors=extractors,
                metrics=metrics,
                dataset_id=dataset_id,
                caption_column=caption_column,
                neighbours=neighbours,
                replace_content=replace_content,
                text=text,
                skip_bad=skip_bad,
                on_progress=on_progress,
            )

    def ingest_results(
        self,
        source: str | os.PathLike[str],
        *,
        larger_is_better: bool | None = None,
        on_duplicate: Literal["error", "mean", "first", "last", "best"] = "error",
        skip_bad: bool = False,
    ) -> ResultsReading:
        """Add recorded results: how well models did on datasets.

        Args:
            source: a table with the columns model, dataset, metric, value.
            larger_is_better: direction of a metric that is not known yet.
            on_duplicate: which value counts where a model has several for one dataset, metric and stage.
            skip_bad: leave bad rows out instead of refusing all.

        Returns:
            What was written.

        Raises:
            Error: the table has problems; nothing was written.

        Example:
            >>> len(graph.ingest_results("results.csv", larger_is_better=True).results)
            4
        """
        from matchgraph.ingest.workflow import ingest_results

        return ingest_results(
            self._graph,
            Path(source),
            larger_is_better=larger_is_better,
            on_duplicate=on_duplicate,
            skip_bad=skip_bad,
        )

    def ingest_minizoo(self, *, without: Collection[str] = ()) -> RecordCounts:
        """Add the records that come with matchgraph: ten tiny models measured on 32 datasets.

        Args:
            without: ids of datasets to leave out, with all that is known of them.

        Returns:
            How many rows of each kind there are.

        Example:
            >>> graph.ingest_minizoo(without=["noto-food"]).models
            10
        """
        from matchgraph.ingest.workflow import load_minizoo

        return load_minizoo(self._graph, without=without)

    def export(self, folder: str | os.PathLike[str], *, shareable: bool = False) -> dict[str, int]:
        """Write the whole graph as tables, which `ingest_records` loads again.

        Args:
            folder: gets the tables.
            shareable: leave out what is of this machine alone: folders, throughput, unfinished runs, hosts
                and times.

        Returns:
            File name to how many rows it got.

        Example:
            >>> graph.export("records")["models.csv"]
            2
        """
        from matchgraph.ingest.workflow import export_records

        return export_records(self._graph, Path(folder), shareable=shareable)

    def ingest_records(
        self, folder: str | os.PathLike[str], *, without: Collection[str] = ()
    ) -> RecordCounts:
        """Add what `export` wrote.

        Args:
            folder: of the tables.
            without: ids of datasets to leave out, with all that is known of them.

        Returns:
            How many rows of each kind there are.

        Example:
            >>> graph.ingest_records("records").datasets
            2
        """
        from matchgraph.ingest.workflow import load_records

        return load_records(self._graph, Path(folder), without=without)

    # -- asking

    def predict(
        self,
        target: str | os.PathLike[str],
        *,
        probe: str | os.PathLike[str] | None = None,
        caption_column: str | None = None,
        method: Method | None = None,
        save: bool = False,
        confidence: float | None = None,
    ) -> Answer:
        """Rank the models for a dataset, without fine-tuning any.

        Args:
            target: a folder of images, or the id of a dataset of the graph, whose own results are not used.
            probe: the CLIP that the graph's datasets were ingested with; the connection's by default.
            caption_column: the column of a folder's metadata that holds the captions.
            method: how to predict; the default recipe by default.
            save: keep a folder's images in the graph as a dataset.
            confidence: in (0, 1); also find the smallest set of models that contains the best one with it.

        Returns:
            The ranking: `.ranking`, `.costs`, `.to_frame()`; notebooks show it as a table.

        Raises:
            Error: the target or the method does not suit the graph.

        Example:
            >>> answer = graph.predict("noto-food")
            >>> answer.to_frame().columns[0]
            'model'
        """
        from matchgraph.ingest.tables.new_dataset import target as target_of
        from matchgraph.predictor.workflow import predict

        chosen = self.probe if probe is None else os.fspath(probe)
        with self._following() as on_progress:
            return predict(
                self._graph,
                target_of(os.fspath(target), chosen, caption_column, self.settings.home),
                method=method,
                save=save,
                confidence=confidence,
                on_progress=on_progress,
            )

    def decide(
        self,
        target: str | os.PathLike[str],
        *,
        measure: int | None = 3,
        budget_hours: float | None = None,
        probe: str | os.PathLike[str] | None = None,
        caption_column: str | None = None,
        method: Method | None = None,
        extractors: Sequence[str] = (),
        options: WorkerOptions | None = None,
        reporter: Reporter | None = None,
    ) -> Shortlisted:
        """Rank the models for a dataset, fine-tune and measure the likeliest in turn, and decide.

        Each is measured as the graph's results were, and its results stay in the graph. What is measured
        already counts, so the same call goes on where it was stopped.

        Args:
            target: a folder of images, which becomes a dataset of the graph, or the id of one.
            measure: how many models to measure at most; None for as many as the budget pays for.
            budget_hours: of one device; None for no limit.
            probe: the CLIP that the graph's datasets were ingested with; the connection's by default.
            caption_column: the column of a folder's metadata that holds the captions.
            method: how to predict; the default recipe by default.
            extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.
            options: how a worker works.
            reporter: receives the progress of the runs.

        Returns:
            `.decision` with the model to take, its chance and all that was measured; `.adapter` with its
            weights; `.answer`, the ranking before.

        Raises:
            Error: no model can be measured, or a folder is gone or changed.

        Example:
            >>> found = graph.decide("noto-food", measure=3)
            >>> found.decision.model
            'tiny-pixart'
        """
        from matchgraph.ingest.tables.new_dataset import target as target_of
        from matchgraph.shortlist import measure_and_decide

        chosen = self.probe if probe is None else os.fspath(probe)
        with self._following() as on_progress:
            return measure_and_decide(
                self._graph,
                self.settings,
                target_of(os.fspath(target), chosen, caption_column, self.settings.home),
                measure=measure,
                budget_hours=budget_hours,
                method=method,
                probe=chosen,
                extractors=tuple(extractors),
                options=options,
                on_progress=on_progress,
                reporter=reporter,
            )

    def evaluate(
        self,
        *,
        method: Method | None = None,
        removed: float = 0.0,
        hold_out: str | None = None,
        measure: int = 0,
    ) -> Evaluation:
        """Leave-one-dataset-out accuracy of the prediction on this graph, against baselines.

        Args:
            method: how to predict; the default recipe by default.
            removed: share of the visible results that is removed at random in each fold.
            hold_out: kind of datasets that are held out together: "style", "category" or "cluster"; None for
                one dataset at a time.
            measure: also what measuring that many models in each order, and taking the best, gives.

        Returns:
            Figures of the method and of all baselines: `.to_frame()`.

        Raises:
            Error: too few results, or the method does not suit the graph.

        Example:
            >>> "tau_w" in graph.evaluate(method=matchgraph.Method(recipe="gaussian")).to_frame().columns
            True
        """
        from matchgraph.predictor.workflow import evaluate

        with self._following() as on_progress:
            return evaluate(
                self._graph,
                method=method,
                removed=removed,
                hold_out=hold_out,
                measure=measure,
                on_progress=on_progress,
            )

    def query(self, name: str, **parameters: Any) -> pd.DataFrame:
        """Answer a named question; `matchgraph query` lists them.

        Args:
            name: of the question.
            parameters: its parameters, by name.

        Returns:
            One row per answer.

        Raises:
            Error: there is no such question, or a parameter does not suit it.

        Example:
            >>> graph.query("best-models", dataset="noto-food").loc[0, "model"]
            'tiny-pixart'
        """
        return _frame(explore(self._runner, name, parameters))

    def cypher(self, statement: str, **parameters: Any) -> pd.DataFrame:
        """Run a reading Cypher statement.

        Args:
            statement: the statement; `$name` stands for a parameter.
            parameters: their values.

        Returns:
            One row per record.

        Raises:
            Error: Neo4j refuses the statement, or it would write.

        Example:
            >>> graph.cypher("MATCH (m:Model) RETURN count(m) AS models").to_dict("records")
            [{'models': 10}]
        """
        return _frame(self._runner.read_only(statement, parameters))

    # -- doing

    @property
    def runs(self) -> Runs:
        """The fine-tuning runs of the graph."""
        return Runs(self)

    def router(self, metric: str = "clip_score", *, probe: str | os.PathLike[str] | None = None) -> Router:
        """The router of a quality metric, which says which candidate is worth its cost for a prompt.

        Args:
            metric: quality metric of the graph's scores.
            probe: the CLIP that reads prompts; the connection's by default.

        Example:
            >>> graph.router("clip_score").metric
            'clip_score'
        """
        return Router(self, metric, self._probe(probe))

    def collaborate(
        self, student: str, *, probe: str | os.PathLike[str] | None = None, device: str = "auto"
    ) -> Collaboration:
        """A student and its teacher drawing together.

        Args:
            student: id of the student.
            probe: the CLIP that scores images; the connection's by default.
            device: `auto` or a torch device name.

        Example:
            >>> graph.collaborate("tiny-sdxl-lcm").student
            'tiny-sdxl-lcm'
        """
        return Collaboration(self, student, self._probe(probe), device)

    # -- the raw clients

    def gds(self) -> GraphDataScience:
        """The graphdatascience client on the same database.

        Example:
            >>> str(graph.gds().server_version())[0]
            '2'
        """
        return self._runner.gds()

    def py2neo(self) -> py2neo.Graph:
        """A py2neo graph on the same database; needs `matchgraph[py2neo]`.

        Example:
            >>> graph.py2neo().evaluate("RETURN 1")
            1
        """
        from matchgraph.graphdb.py2neo_bridge import py2neo_graph

        return py2neo_graph(self.settings)

    def _probe(self, probe: str | os.PathLike[str] | None) -> str:
        from matchgraph.training.errors import ExtractorUnavailable

        chosen = self.probe if probe is None else os.fspath(probe)
        if chosen is None:
            raise ExtractorUnavailable(
                f"A probe is needed: give probe= here, in connect(), or {PROBE_VARIABLE}."
            )
        return chosen

    @contextmanager
    def _following(self) -> Iterator[Progress]:
        """What long work reports to."""
        if self._progress is True:
            with progress_bar() as bar:
                yield bar
        else:
            yield self._progress or no_progress


class Runs:
    """Fine-tuning runs. Made by `Graph.runs`."""

    def __init__(self, graph: Graph) -> None:
        self._owner = graph

    def plan(
        self,
        *,
        models: Sequence[str] = (),
        datasets: Sequence[str] = (),
        config: RunConfig | None = None,
        extractors: Sequence[str] = (),
    ) -> PlanSummary:
        """Show which runs are to do, and how long they take; writes nothing.

        Args:
            models: ids; all with a folder by default.
            datasets: ids; all with a folder by default.
            config: what each run does; the paper's settings by default.
            extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.

        Returns:
            The runs, and the hours of those that are not done.

        Raises:
            Error: no pair is left, or a folder is gone or changed.

        Example:
            >>> config = matchgraph.RunConfig(
            ...     steps=2, batch_size=4, samples=4, sampling_steps=2, resolution_px=32
            ... )
            >>> graph.runs.plan(models=["tiny-sd15"], datasets=["icons"], config=config).to_do
            1
        """
        from matchgraph.ingest.runs.config import RunConfig
        from matchgraph.ingest.runs.workflow import plan_runs

        graph = self._owner
        selection = self._selection(models, datasets, extractors)
        return plan_runs(graph._graph, config or RunConfig(), selection, home=graph.settings.home)

    def run(
        self,
        *,
        models: Sequence[str] = (),
        datasets: Sequence[str] = (),
        config: RunConfig | None = None,
        extractors: Sequence[str] = (),
        options: WorkerOptions | None = None,
        workers: int | None = 1,
        reporter: Reporter | None = None,
    ) -> WorkSummary:
        """Fine-tune, sample and measure; finished work is not repeated.

        Args:
            models: ids; all with a folder by default.
            datasets: ids; all with a folder by default.
            config: what each run does; the paper's settings by default.
            extractors: where other extractors are, each `NAME=WEIGHTS` or `NAME=KIND:WEIGHTS`.
            options: how a worker works.
            workers: 1 for this process, more for child processes, None for one per GPU or per four cores.
            reporter: receives the progress.

        Returns:
            What was done, and what failed.

        Raises:
            Error: as `plan`; nothing was begun.

        Example:
            >>> config = matchgraph.RunConfig(
            ...     steps=2, batch_size=4, samples=4, sampling_steps=2, resolution_px=32
            ... )
            >>> graph.runs.run(models=["tiny-sd15"], datasets=["icons"], config=config).done
            1
        """
        from matchgraph.ingest.runs.config import RunConfig
        from matchgraph.ingest.runs.workflow import run_pairs

        graph = self._owner
        return run_pairs(
            graph._graph,
            graph.settings,
            config or RunConfig(),
            self._selection(models, datasets, extractors),
            options=options,
            workers=workers,
            reporter=reporter,
        )

    def status(self, *ids: str) -> RunsStatus:
        """Say how runs stand.

        Args:
            ids: of runs; all by default.

        Raises:
            Error: there is no such run.

        Example:
            >>> graph.runs.status().counts.get("RUNNING", 0)
            0
        """
        from matchgraph.ingest.runs.workflow import runs_status

        return runs_status(self._owner._graph, ids)

    def retry(self, *ids: str) -> ChangedRuns:
        """Queue failed or cancelled runs again.

        Args:
            ids: of runs; all that have failed by default.

        Raises:
            Error: there is no such run.

        Example:
            >>> graph.runs.retry().changed
            ()
        """
        from matchgraph.ingest.runs.workflow import retry_runs

        return retry_runs(self._owner._graph, ids)

    def cancel(self, *ids: str) -> ChangedRuns:
        """Cancel queued and running runs.

        Args:
            ids: of runs; all by default.

        Raises:
            Error: there is no such run.

        Example:
            >>> graph.runs.cancel().changed
            ()
        """
        from matchgraph.ingest.runs.workflow import cancel_runs

        return cancel_runs(self._owner._graph, ids, home=self._owner.settings.home)

    def _selection(self, models: Sequence[str], datasets: Sequence[str], extractors: Sequence[str]) -> Any:
        from matchgraph.ingest.runs.config import Selection

        return Selection(
            models=tuple(models),
            datasets=tuple(datasets),
            probe=self._owner.probe,
            extractors=tuple(extractors),
        )


class Router:
    """Which candidate is worth its cost for a prompt. Made by `Graph.router`.

    Attributes:
        metric: quality metric that it routes by.
        probe: the CLIP that reads prompts.
    """

    def __init__(self, graph: Graph, metric: str, probe: str) -> None:
        from matchgraph.routing.store import RouterStore

        self.metric, self.probe = metric, probe
        self._runner = graph._runner
        self._store = RouterStore(graph.settings.home)

    def fit(
        self,
        *,
        kind: Literal["gaussian", "knn", "network"] = "gaussian",
        neighbours: int | None = None,
        seed: int = 0,
    ) -> Path:
        """Fit the router to the graph's scores, and keep it in the data folder.

        Args:
            kind: a Gaussian process over prompt embeddings, nearest prompts, or the paper's network.
            neighbours: of `knn`; chosen on the validation prompts by default.
            seed: of everything random.

        Returns:
            Its file.

        Raises:
            Error: too few prompts are scored.

        Example:
            >>> graph.router("clip_score").fit().suffix
            '.json'
        """
        from matchgraph.routing import workflow

        return workflow.fit(
            self._runner, self._store, self.metric, self.probe, kind=kind, neighbours=neighbours, seed=seed
        )[0]

    def calibrate(
        self,
        budget_tflop: float | None = None,
        *,
        budget_seconds: float | None = None,
        budget_usd: float | None = None,
    ) -> Calibrated:
        """Find the lambda that keeps the average cost within a budget, and store it with the router.

        Args:
            budget_tflop: what an image may cost on average, where candidates cost TFLOP.
            budget_seconds: likewise in seconds.
            budget_usd: likewise in US dollars.

        Raises:
            Error: not one budget is given, the router is not fitted, or the cheapest candidates cost more.

        Example:
            >>> graph.router("clip_score").calibrate(0.001).validation_cost <= 0.001
            True
        """
        from matchgraph.routing import workflow

        budget = _budget(budget_tflop, budget_seconds, budget_usd)
        if budget is None:
            raise Error("Give a budget: budget_tflop, budget_seconds or budget_usd.")
        return workflow.calibrate(self._runner, self._store, self.metric, self.probe, budget)

    def decide(
        self,
        prompts: Sequence[str],
        *,
        budget_tflop: float | None = None,
        budget_seconds: float | None = None,
        budget_usd: float | None = None,
        lam: float | None = None,
    ) -> list[Decision]:
        """Decide which candidate is worth its cost for each prompt.

        Args:
            prompts: at least one.
            budget_tflop: what an image may cost on average, where candidates cost TFLOP.
            budget_seconds: likewise in seconds.
            budget_usd: likewise in US dollars.
            lam: quality that a unit of cost is worth, instead of a budget; what `calibrate` found by default.

        Returns:
            One decision per prompt.

        Raises:
            Error: the router is not fitted, or no candidate is within the budget.

        Example:
            >>> graph.router("clip_score").decide(["a red apple"], budget_tflop=0.001)[0].basis
            'prompt'
        """
        from matchgraph.routing import workflow

        return workflow.decide(
            self._runner,
            self._store,
            prompts,
            self.metric,
            self.probe,
            budget=_budget(budget_tflop, budget_seconds, budget_usd),
            lam=lam,
        )

    def generate(
        self,
        prompts: Sequence[str],
        out: str | os.PathLike[str],
        *,
        lam: float | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> list[Drawn]:
        """Draw each prompt with the candidate it is routed to.

        Args:
            prompts: at least one.
            out: folder for the images.
            lam: quality that a TFLOP is worth; what `calibrate` found by default.
            seed: of the noise.
            device: `auto` or a torch device name.

        Returns:
            The images, by prompt.

        Raises:
            Error: the router is not fitted, or a candidate has no pipeline folder.

        Example:
            >>> graph.router("clip_score").generate(["a red apple"], "images")[0].path.suffix
            '.png'
        """
        from matchgraph.routing import workflow

        drawn = workflow.generate(
            self._runner,
            self._store,
            prompts,
            self.metric,
            self.probe,
            Path(out),
            lam=lam,
            seed=seed,
            device=device,
        )
        return list(drawn)


class Collaboration:
    """A student that draws, and its teacher, which improves what is rejected. Made by `Graph.collaborate`.

    Attributes:
        student: id of the student.
    """

    def __init__(self, graph: Graph, student: str, probe: str, device: str) -> None:
        from matchgraph.collaboration.workflow import Oracle

        self.student = student
        self._graph = graph
        self._oracle = Oracle(probe, device=device)

    def calibrate(
        self,
        teacher: str,
        *,
        steps: int,
        guidance: float | None = None,
        resolution_px: int | None = None,
        metric: str = "clip_score",
        prompts_file: str | os.PathLike[str] | None = None,
        seed: int = 0,
    ) -> Calibration:
        """Measure the scores of the student's images, and store them in the graph.

        Args:
            teacher: id of the teacher.
            steps: the student's denoising steps.
            guidance: its guidance scale; the pipeline's own by default.
            resolution_px: side of its images; 512 by default.
            metric: quality metric that judges.
            prompts_file: one prompt per line; the graph's validation prompts by default.
            seed: of the noise.

        Raises:
            Error: a pipeline folder is missing, or there are no prompts.

        Example:
            >>> pair = graph.collaborate("tiny-sdxl-lcm")
            >>> pair.calibrate(
            ...     "tiny-sdxl", steps=2, guidance=1, resolution_px=32, prompts_file="prompts.txt"
            ... ).samples
            2
        """
        from matchgraph.collaboration import workflow

        drawing = Drawing(steps, guidance)
        with self._graph._following() as on_progress:
            return workflow.calibrate(
                self._graph._runner,
                self.student,
                teacher,
                drawing if resolution_px is None else replace(drawing, resolution_px=resolution_px),
                self._oracle,
                metric=metric,
                prompts_file=None if prompts_file is None else Path(prompts_file),
                seed=seed,
                on_progress=on_progress,
            )

    def generate(
        self,
        prompts: Sequence[str],
        out: str | os.PathLike[str],
        *,
        percentile: float | None = None,
        teacher_steps: int | None = None,
        seed: int = 0,
    ) -> list[collaboration_workflow.Drawn]:
        """Draw prompts: the student first, the teacher where the score is below the threshold.

        Args:
            prompts: at least one.
            out: folder for the images.
            percentile: of the student's scores that an image must reach; the tuned one by default.
            teacher_steps: denoising steps of the teacher; the tuned ones by default.
            seed: of the noise.

        Returns:
            The images with who drew them and why, by prompt.

        Raises:
            Error: the student is not calibrated, or neither tuned nor given a percentile and steps.

        Example:
            >>> pair = graph.collaborate("tiny-sdxl-lcm")
            >>> drawn = pair.generate(["a red apple"], "images", percentile=50, teacher_steps=4)
            >>> drawn[0].path.suffix
            '.png'
        """
        from matchgraph.collaboration import workflow

        drawn = workflow.generate(
            self._graph._runner,
            self.student,
            prompts,
            Path(out),
            self._oracle,
            k=percentile,
            teacher_steps=teacher_steps,
            seed=seed,
        )
        return sorted(drawn, key=lambda image: image.outcome.place)


def _budget(tflop: float | None, seconds: float | None, usd: float | None) -> Budget | None:
    from matchgraph.routing.workflow import Budget

    units: dict[Unit, float | None] = {"TFLOP": tflop, "s": seconds, "USD": usd}
    given = [Budget(cost, unit) for unit, cost in units.items() if cost is not None]
    if len(given) > 1:
        raise Error(f"Give one budget, not {len(given)}.")
    return given[0] if given else None


def _frame(answer: tuple[list[str], list[dict[str, Any]]]) -> pd.DataFrame:
    import pandas as pd

    columns, rows = answer
    return pd.DataFrame(rows, columns=columns)
