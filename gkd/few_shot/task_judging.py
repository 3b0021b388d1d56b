"""Judging of few-shot tasks on episodes, and of middle-shot tasks with classifiers on a frozen embedding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

from gkd.few_shot.classifiers import CENTRED, episode_correct
from gkd.few_shot.judging import Accuracies, EpisodeSet, packed, paired, summarised
from gkd.problems.judging import Judging, Outputs, Verdict
from gkd.problems.source import Source
from gkd.storage.judged import EpisodeAnswers, VerdictFields
from gkd.storage.records import FEW_SHOT, write_record
from gkd.storage.run_files import EPISODES


@dataclass(frozen=True)
class EpisodeVerdict(Verdict):
    """Accuracies of one network on the novel episodes."""

    accuracies: Accuracies = field(default_factory=dict)

    def results(self, teacher: Verdict | None = None) -> VerdictFields:
        results: VerdictFields = {**super().results(), "few_shot": summarised(self.accuracies)}
        if isinstance(teacher, EpisodeVerdict):
            results["to_teacher"] = paired(self.accuracies, teacher.accuracies)
        return results


@dataclass(frozen=True)
class EpisodeJudging(Judging):
    """Judging of a few-shot task: the embedding on episodes over other classes.

    Attributes:
        novel: the test: episodes over classes that neither training nor selection sees.
        validation: episodes that choose the best epoch.
        classifiers: keys of ``CLASSIFIERS``, or ``centred``; the first chooses the epoch and leads tables.
    """

    kind: ClassVar[str] = FEW_SHOT

    novel: EpisodeSet
    validation: EpisodeSet
    classifiers: tuple[str, ...]

    def validate(self, outputs: Outputs, images: Source, select: str) -> tuple[str, float]:
        """The first classifier's mean accuracy in percent on the validation episodes, over all numbers of shots."""
        of_settings = _accuracies(outputs, images, self.validation, self.classifiers[:1]).values()
        return "episodes", fmean(float(values.mean()) for each in of_settings for values in each.values())

    def judge(self, outputs: Outputs, images: Source) -> EpisodeVerdict:
        """Accuracies of every classifier on the novel episodes."""
        return EpisodeVerdict(accuracies=_accuracies(outputs, images, self.novel, self.classifiers))

    def save(self, folder: Path, verdicts: Mapping[str, Verdict]) -> None:
        """Write the novel episodes, and each network's number of right answers to each of them."""
        queries = {setting: drawn.ways * drawn.queries for setting, drawn in self.novel.settings()}
        for drawn in self.novel.episodes:
            drawn.save(folder / f"episodes-{drawn.ways}-way.safetensors")
        names = self.novel.names()
        answers = {
            network: packed(verdict.accuracies, queries, names)
            for network, verdict in verdicts.items()
            if isinstance(verdict, EpisodeVerdict)
        }
        write_record(folder / EPISODES, EpisodeAnswers(**answers))


def _accuracies(
    outputs: Outputs, images: Source, episodes: EpisodeSet, classifiers: tuple[str, ...]
) -> Accuracies:
    """Accuracies on episodes; the classifier ``centred`` gets the mean embedding of the training images."""
    _, embedding = outputs(episodes.images)
    base_mean = outputs(images.train)[1].mean(0) if CENTRED in classifiers else None
    return episodes.accuracies(embedding, classifiers, base_mean)


@dataclass(frozen=True)
class FrozenClassifiers(Judging):
    """Judging of a middle-shot task: as usual, and beside it classifiers on the embedding that the student starts from.

    The classes have equally many images each, one class after the other.

    Attributes:
        names: keys of ``gkd.few_shot.classifiers.CLASSIFIERS``.
    """

    names: tuple[str, ...]

    def before_training(self, outputs: Outputs, images: Source) -> dict[str, Tensor]:
        """Classifier -> whether each test image is classified rightly; the support is the training images."""
        if not self.names:
            return {}
        train, test, ways = images.train, images.test, len(images.space)
        (_, support_rows), (_, query_rows) = outputs(train), outputs(test)
        support = torch.arange(len(train)).view(1, ways, -1)
        query = len(train) + torch.arange(len(test)).view(1, ways, -1)
        rows = torch.cat([support_rows, query_rows])
        return {name: episode_correct(rows, support, query, name).flatten() for name in self.names}
