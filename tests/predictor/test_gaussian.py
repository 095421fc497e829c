"""The Gaussian recipe: its closed forms are those of the process, nothing leaks, odd zoos are ranked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import matchgraph.predictor.gaussian
from matchgraph.graphdb.metrics import KNOWN_METRICS
from matchgraph.graphdb.models import Dataset, Metric, Model
from matchgraph.predictor.baselines import BASELINES
from matchgraph.predictor.errors import InvalidRows, NotEnoughResults
from matchgraph.predictor.evaluation import evaluate
from matchgraph.predictor.gaussian import (
    GaussianMatcher,
    comparable,
    dataset_kernels,
    feature_standings,
    scores,
    without_levels,
)
from matchgraph.predictor.kernels import embedding_kernel, similarity_kernel
from matchgraph.predictor.matching import predict
from matchgraph.predictor.ranks import summarise_normal
from matchgraph.predictor.recipes import Method
from matchgraph.predictor.visibility import hide_results, loss_matrix, remove_results
from tests.predictor.zoos import PROCESSES, measured_zoo

NAN = float("nan")


@pytest.fixture
def matcher():
    return GaussianMatcher()


@pytest.fixture
def one_choice(monkeypatch):
    """A process with known variances and mix, so that there is nothing to average over."""
    for name, value in (("STANDINGS", (0.7,)), ("NOISES", (0.4,)), ("MIXES", (0.25,))):
        monkeypatch.setattr(matchgraph.predictor.gaussian, name, value)


def ranked(matcher, snapshot, dataset, **options):
    return matcher.rank(hide_results(snapshot, dataset), [dataset], **options)[dataset]


class TestClosedForms:
    @pytest.mark.parametrize("removed", [0.0, 0.3])
    def test_mean_and_variance_are_those_of_all_pairs_at_once(self, zoo, matcher, one_choice, removed):  # noqa: ARG002
        """Against the textbook formulas on one covariance of all pairs, and leaving out by hand."""
        snapshot = remove_results(measured_zoo(3, n_datasets=9, n_models=4), removed, 1)
        visible = hide_results(snapshot, snapshot.datasets[2].id)
        matrix = comparable(loss_matrix(visible))
        values, effects = without_levels(scores(matrix, visible.metric))
        values -= np.nanmean(effects)
        kernel = 0.7 + 0.75 * similarity_kernel(visible) + 0.25 * embedding_kernel(visible)
        column = [[d.id for d in visible.datasets].index(d) for d in matrix.datasets]
        m, d = np.nonzero(~np.isnan(values))
        at = np.array(column)[d]
        same_model = m[:, None] == m
        noisy = same_model * kernel[np.ix_(at, at)] + 0.4 * np.eye(len(m))
        y = values[m, d]
        errors, spreads = [], []
        for left in range(len(m)):
            rest = np.arange(len(m)) != left
            gain = np.linalg.solve(noisy[np.ix_(rest, rest)], noisy[rest, left])
            errors.append(y[left] - gain @ y[rest])
            spreads.append(noisy[left, left] - gain @ noisy[rest, left])
        freedom = (len(m) - len(matrix.datasets)) / len(m)
        variance = np.mean(np.square(errors) / spreads) / freedom
        across = (np.arange(4)[:, None] == m) * kernel[2, at]
        mean = across @ np.linalg.solve(noisy, y)
        prior = kernel[2, 2] + 0.4
        var = variance * (prior - np.einsum("ij,ji->i", across, np.linalg.solve(noisy, across.T)))
        expected = summarise_normal(mean, np.sqrt(var))
        prediction = ranked(matcher, snapshot, snapshot.datasets[2].id).prediction
        assert prediction.expected_rank == pytest.approx(expected.expected_rank, abs=1e-6)
        assert prediction.p_best == pytest.approx(expected.p_best, abs=1e-6)

    def test_what_the_mean_is_the_sum_of(self, matcher):
        snapshot = measured_zoo(1)
        answer = ranked(matcher, snapshot, snapshot.datasets[4].id, explain=True)
        assert answer.parts == ("general", "graph", "dataset")
        lifts = answer.contributions
        assert lifts.sum(axis=0) == pytest.approx(np.zeros(3), abs=1e-9)
        # Models are lifted in the order in which they are ranked.
        order = np.argsort(answer.prediction.expected_rank)
        assert (np.diff(lifts.sum(axis=1)[order]) <= 1e-9).all()
        assert np.abs(lifts).max() > 0.1

    def test_levels_are_those_of_least_squares(self):
        rng = np.random.default_rng(0)
        values = rng.normal(size=(5, 7)) + rng.normal(size=7) * 5
        values[rng.random(values.shape) < 0.3] = NAN
        m, d = np.nonzero(~np.isnan(values))
        design = np.column_stack([m[:, None] == np.arange(5), d[:, None] == np.arange(7)]).astype(float)
        solution = np.linalg.lstsq(design, values[m, d], rcond=None)[0]
        residuals, effects = without_levels(values)
        assert effects - effects.mean() == pytest.approx(solution[:5] - solution[:5].mean(), abs=1e-4)
        own = residuals[m, d] - effects[m]
        assert own == pytest.approx(values[m, d] - design @ solution, abs=1e-4)


class TestScores:
    def matrix(self, zoo, values, metric=KNOWN_METRICS["clip_fid"]):
        snapshot = zoo(n_datasets=2, n_models=4)
        rows = snapshot.performs.sort_values(["dataset", "model"], ignore_index=True)
        return loss_matrix(replace(snapshot, metric=metric, performs=rows.assign(value=np.ravel(values))))

    def test_ratios_of_distances(self, zoo):
        matrix = self.matrix(zoo, [[1, 2, 4, 8], [10, 20, 40, 80]])
        values = scores(matrix, KNOWN_METRICS["clip_fid"])
        assert values[:, 0] == pytest.approx(values[:, 1])
        assert np.diff(values[:, 0]) == pytest.approx([values[1, 0] - values[0, 0]] * 3)

    @pytest.mark.parametrize("metric", [KNOWN_METRICS["kid"], Metric("score", larger_is_better=True)])
    def test_differences_of_what_may_be_negative_or_is_no_distance(self, zoo, metric):
        sign = -1 if metric.larger_is_better else 1
        matrix = self.matrix(zoo, sign * np.array([[-1, 0, 1, 2.0], [5, 6, 7, 8]]), metric)
        values = scores(matrix, metric)
        assert values[:, 0] == pytest.approx(values[:, 1])
        assert np.diff(values[:, 0]) == pytest.approx([values[1, 0] - values[0, 0]] * 3)

    def test_a_distance_of_zero_is_no_ratio(self, zoo):
        values = scores(self.matrix(zoo, [[0, 1, 2, 3], [4, 5, 6, 7.0]]), KNOWN_METRICS["clip_fid"])
        assert np.isfinite(values).all()

    def test_a_failed_training_counts_as_a_bad_one(self, zoo):
        values = scores(self.matrix(zoo, [[1, 1.1, 1.2, 1e6], [1, 2, 3, 4]]), KNOWN_METRICS["clip_fid"])
        assert values.argmax() == 6
        assert values.max() < 10


class TestVisibility:
    def test_the_targets_results_change_nothing_and_others_do(self, matcher):
        snapshot = measured_zoo(2, n_datasets=12)
        target, other = snapshot.datasets[3].id, snapshot.datasets[4].id

        def told(dataset):
            performs = snapshot.performs.copy()
            own = performs["dataset"] == dataset
            performs.loc[own, "value"] = 1000 - performs.loc[own, "value"]
            answer = matcher.rank(replace(snapshot, performs=performs), [target])[target]
            return answer.prediction.p_best.tolist()

        plain = matcher.rank(snapshot, [target])[target].prediction.p_best.tolist()
        assert told(target) == plain
        assert told(other) != plain

    def test_several_datasets_at_once_know_nothing_of_each_other(self, matcher):
        snapshot = measured_zoo(2, n_datasets=12)
        first, second = snapshot.datasets[3].id, snapshot.datasets[4].id
        both = matcher.rank(snapshot, [first, second])
        hidden = matcher.rank(hide_results(snapshot, second), [first])[first]
        assert np.array_equal(both[first].prediction.p_best, hidden.prediction.p_best)

    def test_features_choose_what_is_seen(self):
        snapshot = measured_zoo(0, n_datasets=8)
        assert set(dataset_kernels(snapshot, "all")) == {"graph", "dataset"}
        assert set(dataset_kernels(snapshot, "graph")) == {"graph"}
        assert set(dataset_kernels(snapshot, "node")) == {"dataset"}
        bare = measured_zoo(0, n_datasets=8, embedding=0, similarities=False)
        assert dataset_kernels(bare, "all") == {}


class TestOddZoos:
    @pytest.mark.parametrize(
        "changes",
        [
            {"embedding": 0},
            {"similarities": False},
            {"embedding": 0, "similarities": False},
            {"n_models": 2},
            {"n_models": 200, "n_datasets": 6},
            {"measured": 0.4},
            {"n_datasets": 2},
        ],
        ids=str,
    )
    def test_every_model_is_ranked(self, matcher, changes):
        snapshot = measured_zoo(5, **{"n_datasets": 10, **changes})
        prediction = predict(snapshot, snapshot.datasets[0].id, matcher)
        assert len(prediction.ranking) == len(snapshot.models)
        assert sum(model.p_best for model in prediction.ranking) == pytest.approx(1)
        assert all(1 <= model.expected_rank <= len(snapshot.models) for model in prediction.ranking)
        assert all(model.why for model in prediction.ranking)

    def test_ties_are_ties(self, matcher):
        snapshot = measured_zoo(5, n_datasets=6)
        tied = replace(snapshot, performs=snapshot.performs.assign(value=3.0))
        assert ranked(matcher, tied, tied.datasets[0].id).prediction.p_best == pytest.approx([0.1] * 10)

    def test_larger_is_better_is_the_mirror_image(self, matcher):
        snapshot = replace(measured_zoo(5, n_datasets=8), metric=KNOWN_METRICS["kid"])
        mirrored = replace(
            snapshot,
            metric=Metric("score", larger_is_better=True),
            performs=snapshot.performs.assign(value=-snapshot.performs["value"]),
        )
        target = snapshot.datasets[0].id
        one, other = (ranked(matcher, each, target).prediction for each in (snapshot, mirrored))
        assert np.array_equal(one.p_best, other.p_best)

    def test_a_model_that_was_never_measured_is_ranked_by_its_features(self, zoo, matcher):
        snapshot = zoo(n_models=8, advantage=0.0)
        # The larger, the better.
        performs = snapshot.performs.assign(
            value=20 - 2 * snapshot.performs["model"].str[1].astype(int) + snapshot.performs["value"] / 50
        )
        models = (*snapshot.models, Model("x9", {"params": 9, "family": "a"}), Model("y0", {"params": 0}))
        snapshot = replace(snapshot, models=models, performs=performs)
        answer = ranked(matcher, snapshot, "d00", explain=True)
        rank = dict(zip(answer.models, answer.prediction.expected_rank, strict=True))
        assert rank["x9"] < rank["y0"]
        assert rank["m7"] < rank["m0"]
        lifts = dict(zip(answer.parts, answer.contributions[answer.models.index("x9")], strict=True))
        assert lifts["model:params"] > 0
        blind = ranked(GaussianMatcher("graph"), snapshot, "d00")
        ranks = dict(zip(blind.models, blind.prediction.expected_rank, strict=True))
        assert ranks["x9"] == ranks["y0"]

    def test_features_that_tell_nothing_are_left_out(self, zoo):
        from matchgraph.predictor.features import model_features

        table = model_features(zoo(n_models=6).models)
        assert feature_standings(table, np.array([1.0, 1, 1, 1, 1, NAN])) == {}
        assert feature_standings(table, np.arange(6.0)) == {}
        assert feature_standings(None, np.array([0.0, 1, 2, 3, 4, NAN])) == {}

    def test_refuses_what_cannot_be_learned_from(self, matcher):
        snapshot = measured_zoo(5, n_datasets=3)
        one = snapshot.performs[snapshot.performs["model"] == "m000"]
        with pytest.raises(NotEnoughResults):
            matcher.rank(replace(snapshot, performs=one), [snapshot.datasets[0].id])
        with pytest.raises(InvalidRows, match="'edges'"):
            Method(features="edges")

    def test_datasets_without_anything_known_get_the_general_ranking(self, matcher):
        snapshot = measured_zoo(5, n_datasets=8, embedding=0)
        lonely = replace(snapshot, datasets=(*snapshot.datasets, Dataset("z"), Dataset("zz")))
        answer = matcher.rank(lonely, ["z", "zz"], explain=True)
        assert np.array_equal(answer["z"].prediction.p_best, answer["zz"].prediction.p_best)
        assert answer["z"].contributions[:, 1] == pytest.approx(np.zeros(10))


@pytest.mark.slow
def test_it_learns_what_is_there_to_learn_and_is_as_sure_as_it_may_be():
    """Where the best model depends on the kind of dataset, it beats the average; its chances come true."""
    average = BASELINES[:1]
    evaluations = [
        evaluate(measured_zoo(seed, PROCESSES["both"]), GaussianMatcher(), baselines=average)
        for seed in range(2)
    ]
    for evaluation in evaluations:
        method, overall = evaluation.summaries
        assert method.gain["tau_w"].low > 0
        assert overall.p_value["tau_w"] < 0.05
    folds = [fold for evaluation in evaluations for fold in evaluation.folds]
    chances = [max(fold.p_best.values()) for fold in folds]
    hits = [max(fold.p_best, key=fold.p_best.get) in fold.best for fold in folds]
    assert np.mean(chances) == pytest.approx(np.mean(hits), abs=0.12)
