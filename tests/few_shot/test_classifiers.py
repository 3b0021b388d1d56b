"""Few-shot classifiers, many episodes at once, against plain loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn import functional as F

from gkd.data.episodes import Episodes, draw_episodes
from gkd.few_shot.classifiers import (
    CLASSIFIERS,
    centred,
    cosine_mean,
    episode_accuracies,
    known_classifiers,
    logistic,
    nearest_mean,
    ridge,
    scikit_logistic,
    scikit_svm,
)
from gkd.metrics.intervals import mean_interval
from tests.refusals import refused


def embeddings(
    classes: int = 12, of_each: int = 40, width: int = 48, apart: float = 0.45
) -> tuple[Tensor, Tensor]:
    """Non-negative, as after a ReLU, and far from separable."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(of_each)
    centres = apart * torch.randn(classes, width, generator=generator)
    return F.relu(centres[labels] + torch.randn(len(labels), width, generator=generator)), labels


def drawn(shots: int, count: int = 60) -> tuple[Tensor, Episodes]:
    rows, labels = embeddings()
    return rows.double(), draw_episodes(labels, count=count, ways=5, shots=shots, queries=15, seed=1)


@pytest.mark.parametrize("shots", [1, 5])
def test_nearest_means_are_those_of_a_plain_loop(shots: int) -> None:
    rows, episodes = drawn(shots, 6)
    for support, query in zip(rows[episodes.support], rows[episodes.query], strict=True):
        distance = nearest_mean(support[None], query[None])[0]
        cosine = cosine_mean(support[None], query[None])[0]
        unit = [F.normalize(F.normalize(own, dim=1).mean(0), dim=0) for own in support]
        for asked, by_distance, by_cosine in zip(
            query.flatten(0, 1), distance.flatten(0, 1), cosine.flatten(0, 1), strict=True
        ):
            expected = torch.stack([-(asked - own.mean(0)).square().sum() for own in support])
            torch.testing.assert_close(by_distance - by_distance[0], expected - expected[0])
            torch.testing.assert_close(
                by_cosine, torch.stack([F.normalize(asked, dim=0) @ mean for mean in unit])
            )


@pytest.mark.parametrize("shots", [1, 5])
def test_regressions_answer_as_scikit_learns(shots: int) -> None:
    rows, episodes = drawn(shots)
    support, query = rows[episodes.support], rows[episodes.query]
    unit_support, unit_query = F.normalize(support, dim=3), F.normalize(query, dim=3)
    truth = np.repeat(np.arange(5), shots)
    answers = {"logistic": logistic(support, query).argmax(3), "ridge": ridge(support, query).argmax(3)}
    agreed = dict.fromkeys(answers, 0)
    for number in range(len(episodes)):
        theirs = {
            "logistic": LogisticRegression(C=1.0, max_iter=1000, tol=1e-8)
            .fit(unit_support[number].flatten(0, 1).numpy(), truth)
            .predict(unit_query[number].flatten(0, 1).numpy()),
            "ridge": RidgeClassifier(alpha=1.0)
            .fit(support[number].flatten(0, 1).numpy(), truth)
            .predict(query[number].flatten(0, 1).numpy()),
        }
        for name, theirs_too in theirs.items():
            agreed[name] += int((answers[name][number].flatten().numpy() == theirs_too).sum())
    total = len(episodes) * 75
    assert all(count >= 0.999 * total for count in agreed.values()), agreed
    assert (
        30 < 100 * (answers["logistic"] == torch.arange(5).view(1, -1, 1)).double().mean() < 90
    )  # no easy task


def test_logistic_regression_is_at_its_minimum() -> None:
    rows, episodes = drawn(5, 3)
    support, query = rows[episodes.support], rows[episodes.query]
    scores = logistic(support, query, tolerance=1e-10)
    model = LogisticRegression(C=1.0, max_iter=5000, tol=1e-12)
    for number in range(3):
        model.fit(F.normalize(support[number].flatten(0, 1), dim=1).numpy(), np.repeat(np.arange(5), 5))
        expected = torch.from_numpy(
            model.predict_log_proba(F.normalize(query[number].flatten(0, 1), dim=1).numpy())
        )
        torch.testing.assert_close(scores[number].flatten(0, 1).log_softmax(1), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_accuracies_do_not_depend_on_how_many_episodes_go_together(classifier: str) -> None:
    rows, episodes = drawn(5, 40)
    together = episode_accuracies(rows, episodes.support, episodes.query, classifier, chunk=40)
    alone = episode_accuracies(rows, episodes.support, episodes.query, classifier, chunk=7)
    torch.testing.assert_close(together, alone)
    assert together.shape == (40,)
    assert 30 < together.mean() < 95
    # Four of the five classes' queries are of other classes here, so the answers cannot be right.
    rolled = episode_accuracies(rows, episodes.support, episodes.query.roll(1, 1), classifier)
    assert rolled.mean() < 20


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_ways_permutation_permutes_the_scores(classifier: str) -> None:
    rows, episodes = drawn(5, 4)
    support, query, order = rows[episodes.support], rows[episodes.query], torch.tensor([3, 0, 4, 1, 2])
    scores = CLASSIFIERS[classifier](support, query)
    permuted = CLASSIFIERS[classifier](support[:, order], query)
    shift = scores[..., order].mean(3, keepdim=True) - permuted.mean(3, keepdim=True)  # an intercept may move
    torch.testing.assert_close(permuted + shift, scores[..., order], rtol=1e-4, atol=1e-4)


def test_an_unknown_classifier_is_named() -> None:
    rows, episodes = drawn(1, 2)
    with refused("unknown-classifier"):
        episode_accuracies(rows, episodes.support, episodes.query, "nearest-men")


@pytest.mark.parametrize("ways", [2, 5])
def test_scikit_learns_own_classifiers_are_fitted_to_each_episode(ways: int) -> None:
    rows, labels = embeddings()
    episodes = draw_episodes(labels, count=3, ways=ways, shots=4, queries=6, seed=1)
    support, query = rows[episodes.support].double(), rows[episodes.query].double()
    truth = np.repeat(np.arange(ways), 4)
    for found, build in (
        (scikit_logistic(support, query), lambda: LogisticRegression(max_iter=1000)),
        (scikit_svm(support, query), lambda: LinearSVC(random_state=0)),
    ):
        for number in range(3):
            own, asked = (F.normalize(part[number], dim=2).flatten(0, 1).numpy() for part in (support, query))
            expected = build().fit(own, truth).predict(asked)
            assert found[number].argmax(2).flatten().numpy().tolist() == expected.tolist()


def test_the_batched_regression_answers_as_the_loop_over_scikit_learns() -> None:
    rows, episodes = drawn(5)
    support, query = rows[episodes.support], rows[episodes.query]
    same = logistic(support, query).argmax(3) == scikit_logistic(support, query).argmax(3)
    assert same.double().mean() >= 0.999


def test_centred_embeddings_have_lost_what_all_have_in_common() -> None:
    rows, _ = embeddings()
    found = centred(rows + 7, (rows + 7).mean(0))
    torch.testing.assert_close(found, F.normalize(rows - rows.mean(0), dim=1), rtol=0, atol=1e-5)


def test_the_interval_is_scipys() -> None:
    values = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, half = mean_interval(values, level=0.9)
    low, high = stats.t.interval(0.9, 39, loc=values.mean(), scale=stats.sem(values.numpy()))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert mean_interval(values[:1])[1] == float("inf")


def test_known_classifiers_are_handed_on_and_others_named() -> None:
    assert known_classifiers(("ridge", "centred"), "centred") == ("ridge", "centred")
    with pytest.raises(ValueError, match="nearest-mean"):
        known_classifiers(("nearest",))
