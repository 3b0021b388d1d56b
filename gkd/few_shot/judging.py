"""Accuracy of embeddings on a fixed set of episodes, by several classifiers, with confidence intervals."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gkd.data import ImageSet
from gkd.data.episodes import Episodes
from gkd.few_shot.classifiers import CENTRED, centred, episode_accuracies
from gkd.metrics.intervals import mean_interval
from gkd.storage.judged import EpisodeAccuracies, EpisodeAccuracy, PackedEpisodes, PackedSetting

MOST_QUERIES = 2**16 - 1  # of an episode, as its number of right answers is saved as uint16


# Setting, such as "5-way 1-shot" -> classifier -> accuracy in percent of each episode, float64 [E].
Accuracies = dict[str, dict[str, Tensor]]


def setting_name(ways: int, shots: int) -> str:
    """``5-way 1-shot``: the name of a number of ways and of shots, as results have it."""
    return f"{ways}-way {shots}-shot"


@dataclass(frozen=True)
class EpisodeSet:
    """Episodes over the images of some classes.

    Attributes:
        images: of the classes.
        episodes: one for each number of ways, drawn with the most shots.
        shots: the numbers of shots; fewer than were drawn take the first of them.
    """

    images: ImageSet
    episodes: tuple[Episodes, ...]
    shots: tuple[int, ...]

    def settings(self) -> Iterator[tuple[str, Episodes]]:
        """Yield ``("5-way 1-shot", its episodes)``: one number of ways after another, with all shots."""
        for drawn in self.episodes:
            for shots in self.shots:
                yield setting_name(drawn.ways, shots), drawn.with_shots(shots)

    def names(self) -> dict[str, str]:
        """Setting -> ten hex digits of a hash of its classes, their names and the drawn samples."""
        names = {}
        for setting, drawn in self.settings():
            digest = hashlib.sha256("\n".join(self.images.space).encode())
            for tensor in (drawn.classes, drawn.index):
                digest.update(tensor.contiguous().numpy().astype("<i8").tobytes())
            names[setting] = digest.hexdigest()[:10]
        return names

    def accuracies(
        self, embedding: Tensor, classifiers: tuple[str, ...], base_mean: Tensor | None = None
    ) -> Accuracies:
        """Accuracy of classifiers on an embedding, episode by episode.

        Args:
            embedding: ``[n, D]`` of the images.
            classifiers: keys of ``gkd.few_shot.classifiers.CLASSIFIERS``.
            base_mean: ``[D]``, the mean embedding of the training images, for the classifier ``centred``.

        Raises:
            ValueError: the classifier ``centred`` without a mean.
        """
        rows_of = dict.fromkeys(classifiers, embedding)
        if CENTRED in classifiers:
            if base_mean is None:
                raise ValueError(f"the classifier {CENTRED!r} needs base_mean")
            rows_of[CENTRED] = centred(embedding, base_mean)
        accuracies: Accuracies = {}
        for setting, episodes in self.settings():
            accuracies[setting] = {}
            for classifier, rows in rows_of.items():
                name = "nearest-mean" if classifier == CENTRED else classifier
                of_episodes = episode_accuracies(rows, episodes.support, episodes.query, name)
                accuracies[setting][classifier] = of_episodes
        return accuracies


def summarised(accuracies: Accuracies) -> EpisodeAccuracies:
    """Setting -> classifier -> mean and half width of its 95 % interval, in percent."""
    return {
        setting: {classifier: _interval(values) for classifier, values in of_setting.items()}
        for setting, of_setting in accuracies.items()
    }


def paired(method: Accuracies, baseline: Accuracies) -> EpisodeAccuracies:
    """The differences ``method - baseline`` on the same episodes, in points, in the form of ``summarised``."""
    return summarised(
        {
            setting: {name: values - baseline[setting][name] for name, values in of_setting.items()}
            for setting, of_setting in method.items()
        }
    )


def _interval(values: Tensor) -> EpisodeAccuracy:
    mean, half = mean_interval(values)
    return EpisodeAccuracy(accuracy=round(mean, 4), interval=round(half, 4))


def packed(
    accuracies: Accuracies, queries: Mapping[str, int], drawn: Mapping[str, str] | None = None
) -> PackedEpisodes:
    """The accuracies as numbers of right answers, a short text a classifier (base64 of zlib of uint16).

    Args:
        accuracies: of every episode.
        queries: setting -> the number of queries of an episode, over all its ways.
        drawn: setting -> the name of its episodes; runs on episodes of other names are never paired.
    """
    content: PackedEpisodes = {}
    for setting, of_setting in accuracies.items():
        right = {
            name: (values * queries[setting] / 100).round().to(torch.int32).numpy().astype("<u2").tobytes()
            for name, values in of_setting.items()
        }
        texts = {name: base64.b64encode(zlib.compress(data, 9)).decode() for name, data in right.items()}
        names = {} if drawn is None else {"drawn": drawn[setting]}
        content[setting] = PackedSetting(queries=queries[setting], right=texts, **names)
    return content


def unpacked(content: PackedEpisodes) -> Accuracies:
    """The accuracies that ``packed`` encoded, exact to the query."""
    accuracies: Accuracies = {}
    for setting, of_setting in content.items():
        accuracies[setting] = {}
        for name, text in of_setting.right.items():
            right = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u2")
            accuracies[setting][name] = torch.from_numpy(right.astype(np.float64)) * 100 / of_setting.queries
    return accuracies
