"""evaluate_episodes: the accuracies of the classifiers, from an encoder and images in any form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gkd.data.episodes import draw_episodes
from gkd.few_shot.classifiers import episode_accuracies
from gkd.few_shot.evaluate import evaluate_episodes
from gkd.metrics.intervals import mean_interval
from gkd.models import build_network
from tests.refusals import refused

IMAGES = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(60) % 6
EPISODES = draw_episodes(LABELS, count=30, ways=3, shots=2, queries=4, seed=0)


def encode(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :5]


def test_accuracy_and_interval_are_those_of_the_classifiers() -> None:
    results = evaluate_episodes(encode, IMAGES, EPISODES, classifiers=("nearest-mean", "ridge"), batch_size=7)
    assert list(results) == ["nearest-mean", "ridge"]
    for name, result in results.items():
        expected = episode_accuracies(encode(IMAGES), EPISODES.support, EPISODES.query, name)
        assert torch.equal(result.episodes, expected)
        assert (result.mean, result.interval) == mean_interval(expected)
        assert str(result) == f"{result.mean:.2f} ± {result.interval:.2f} %"


def test_a_network_gives_its_embedding_in_eval_mode_and_keeps_its_modes() -> None:
    network = build_network("resnet8", num_classes=6, in_channels=1)
    network.bn1.eval()
    modes = [module.training for module in network.modules()]
    statistics = network.layer1[0].bn1.running_mean.clone()
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=16)
    result = evaluate_episodes(network, loader, EPISODES)["nearest-mean"]
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(network.layer1[0].bn1.running_mean, statistics)
    with torch.no_grad():
        embedding = network.eval().features(IMAGES).embedding
    expected = episode_accuracies(embedding, EPISODES.support, EPISODES.query)
    torch.testing.assert_close(result.episodes, expected)


def test_mistakes_are_named() -> None:
    with refused("shuffled-images"):
        evaluate_episodes(encode, DataLoader(TensorDataset(IMAGES), shuffle=True), EPISODES)
    with refused("too-few-images"):
        evaluate_episodes(encode, IMAGES[:10], EPISODES)
    with refused("not-an-embedding"):
        evaluate_episodes(nn.Identity(), IMAGES, EPISODES)
    with refused("unknown-classifier"):
        evaluate_episodes(encode, IMAGES, EPISODES, classifiers=("rigde",))
    with refused("no-images"):
        evaluate_episodes(encode, [], EPISODES)
