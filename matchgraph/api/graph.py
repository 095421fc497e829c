"""A connection to the matching graph: bringing facts in, and asking."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from matchgraph.api.collaboration import Collaboration
from matchgraph.api.router import Router
from matchgraph.api.runs import Runs
from matchgraph.graphdb import connection
from matchgraph.graphdb.defaults import NEIGHBOURS
from matchgraph.graphdb.explore import explore
from matchgraph.graphdb.repository import MatchingGraph
from matchgraph.progress import Progress, no_progress, progress_bar

if TYPE_CHECKING:
    import pandas as pd
    import py2neo
    from graphdatascience import GraphDataScience

    from matchgraph.ingest.runs.reporter import Reporter
    from matchgraph.ingest.runs.worker import WorkerOptions
    from matchgraph.ingest.tables.datasets import DatasetsReport
    from matchgraph.ingest.tables.facts import FactsConfig
    from matchgraph.ingest.tables.models import ModelsReport
    from matchgraph.ingest.tables.published import PublishedReport
    from matchgraph.ingest.tables.results import ResultsReading
    from matchgraph.ingest.workflow import RecordCounts
    from matchgraph.predictor.answer import Answer
    from matchgraph.predictor.evaluation import Evaluation
    from matchgraph.predictor.new_models import NewModels
    from matchgraph.predictor.recipes import Method
    from matchgraph.predictor.starting import StartingPoint
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

    def ingest_published(self, *names: str) -> PublishedReport:
        """Add what is published of well-known models, each fact with its source.

        Args:
            names: of which models, as on the hub (OWNER/NAME); of all by default.

        Returns:
            Which models of the graph have the facts.

        Raises:
            Error: nothing is published here of a name.

        Example:
            >>> graph.ingest_published("black-forest-labs/FLUX.1-dev").notes
            ()
        """
        from matchgraph.ingest.workflow import ingest_published

        return ingest_published(self._graph, names)

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
        model_column: str | None = None,
        dataset_column: str | None = None,
        metric_columns: Sequence[str] = (),
        skip_bad: bool = False,
    ) -> ResultsReading:
        """Add recorded results: how well models did on datasets.

        Args:
            source: a table with the columns model, dataset, metric, value; or runs as MLflow or W&B export
                them.
            larger_is_better: direction of a metric that is not known yet.
            on_duplicate: which value counts where a model has several for one dataset, metric and stage.
            model_column: of an export, where the models' ids are; by default the parameter `model`.
            dataset_column: of an export, where the datasets' ids are; by default the parameter `dataset`.
            metric_columns: of an export, COLUMN or COLUMN=METRIC each; by default the metrics that the graph
                knows.
            skip_bad: leave bad rows out instead of refusing all.

        Returns:
            What was written.

        Raises:
            Error: the table has problems; nothing was written.

        Example:
            >>> len(graph.ingest_results("results.csv", larger_is_better=True).results)
            4
        """
        from matchgraph.ingest.tables.trackers import TrackedColumns
        from matchgraph.ingest.workflow import ingest_results

        return ingest_results(
            self._graph,
            Path(source),
            larger_is_better=larger_is_better,
            on_duplicate=on_duplicate,
            columns=TrackedColumns(model_column, dataset_column, tuple(metric_columns)),
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

        with self._following() as on_progress:
            return load_minizoo(self._graph, without=without, on_progress=on_progress)

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

        with self._following() as on_progress:
            return load_records(self._graph, Path(folder), without=without, on_progress=on_progress)

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
        fits_gib: float | None = None,
        licences: Sequence[str] = (),
    ) -> Answer | StartingPoint:
        """Rank the models for a dataset, without fine-tuning any.

        Args:
            target: a folder of images, or the id of a dataset of the graph, whose own results are not used.
            probe: the CLIP that the graph's datasets were ingested with; the connection's by default.
            caption_column: the column of a folder's metadata that holds the captions.
            method: how to predict; the default recipe by default.
            save: keep a folder's images in the graph as a dataset.
            confidence: in (0, 1); also find the smallest set of models that contains the best one with it.
            fits_gib: only models whose fine-tuning fits a graphics card of this much memory, in GiB.
            licences: only models under one of these, as model cards name them; `*` stands for any text.

        Returns:
            The ranking: `.ranking`, `.costs`, `.to_frame()`; notebooks show it as a table. While the graph
            has no results, what `ingest_published` added is known of the models, best average rank first.

        Raises:
            Error: the target or the method does not suit the graph.

        Example:
            >>> answer = graph.predict("noto-food")
            >>> answer.to_frame().columns[0]
            'model'
        """
        from matchgraph.ingest.tables.new_dataset import target as target_of
        from matchgraph.predictor.workflow import predict_or_start
        from matchgraph.usable import Conditions

        conditions = Conditions(fits_gib, tuple(licences))
        method, notes = conditions.applied(self._graph, self.settings.home, method)
        chosen = self.probe if probe is None else os.fspath(probe)
        with self._following() as on_progress:
            answer = predict_or_start(
                self._graph,
                target_of(os.fspath(target), chosen, caption_column, self.settings.home),
                method=method,
                save=save,
                confidence=confidence,
                home=self.settings.home,
                on_progress=on_progress,
            )
        return replace(answer, notes=(*answer.notes, *notes))

    def decide(
        self,
        target: str | os.PathLike[str],
        *,
        measure: int | None = 3,
        budget_hours: float | None = None,
        probe: str | os.PathLike[str] | None = None,
        caption_column: str | None = None,
        method: Method | None = None,
        fits_gib: float | None = None,
        licences: Sequence[str] = (),
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
            fits_gib: see `predict`.
            licences: likewise.
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
            'tiny-sdxl'
        """
        from matchgraph.ingest.tables.new_dataset import target as target_of
        from matchgraph.shortlist import measure_and_decide
        from matchgraph.usable import Conditions

        conditions = Conditions(fits_gib, tuple(licences))
        method, notes = conditions.applied(self._graph, self.settings.home, method)
        chosen = self.probe if probe is None else os.fspath(probe)
        with self._following() as on_progress:
            found = measure_and_decide(
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
        return replace(found, notes=notes)

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

    def evaluate_new_models(self, *, method: Method | None = None) -> NewModels:
        """How well a model that was never measured is placed among the others, by its properties.

        Args:
            method: how to predict; the default recipe by default.

        Returns:
            For each model, held out in turn, the share of the others that it is rightly above or below:
            `.to_frame()`.

        Raises:
            Error: too few results, or the method does not suit the graph.

        Example:
            >>> graph.evaluate_new_models(method=matchgraph.Method(recipe="gaussian")).ordered.count
            10
        """
        from matchgraph.predictor.workflow import evaluate_new_models

        with self._following() as on_progress:
            return evaluate_new_models(self._graph, method=method, on_progress=on_progress)

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
            'tiny-sdxl'
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
        return Runs(self._graph, self.settings, self.probe)

    def router(self, metric: str = "clip_score", *, probe: str | os.PathLike[str] | None = None) -> Router:
        """The router of a quality metric, which says which candidate is worth its cost for a prompt.

        Args:
            metric: quality metric of the graph's scores.
            probe: the CLIP that reads prompts; the connection's by default.

        Example:
            >>> graph.router("clip_score").metric
            'clip_score'
        """
        return Router(self._runner, self.settings, metric, self._probe(probe))

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
        return Collaboration(self._runner, student, self._probe(probe), device, self._following)

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


def _frame(answer: tuple[list[str], list[dict[str, Any]]]) -> pd.DataFrame:
    import pandas as pd

    columns, rows = answer
    return pd.DataFrame(rows, columns=columns)
