"""What answers for a step's student: its head, or the means of its exemplars."""

from __future__ import annotations

import pytest
import torch

from gkd.config.load import load
from gkd.config.schema import Data, Validation
from gkd.experiment.sources import load_source
from tests.step_helpers import normalise, read, run, student


def test_without_memory_there_is_no_class_mean_to_judge_by() -> None:
    folder = run("method=finetune", "task.memory_per_class=null")
    assert set(read(folder, "matrix")) >= {"classifier", "classifier_task_aware"}
    assert "ncm" not in read(folder, "matrix")
    assert read(folder / "steps" / "3", "memory")["exemplars"] == {}


def test_the_nearest_exemplar_mean_answers_for_icarl() -> None:
    folder = run("method=icarl")
    summary, matrices = read(folder), read(folder, "matrix")
    assert summary["judged_by"] == "nearest class mean of the exemplars"
    assert summary["incremental"]["answers"] == "ncm"
    assert summary["last"]["accuracy"] == pytest.approx(matrices["ncm"]["seen"][-1], abs=1e-3)
    assert summary["last"]["ece"] is None


def test_class_means_are_those_of_the_exemplars_alone() -> None:
    """Judged anew from the weight files and the memories; means over all new images would be an oracle's."""
    from gkd.experiment.networks import build_side
    from gkd.experiment.prepare import prepare
    from gkd.training.predictions import predict

    folder = run("method=icarl", "task.memory_per_class=3")
    source = load_source(Data(name="digits", validation=Validation(per_class=20)))
    prepared = prepare(load(folder / "config.yaml"))
    for number, classes in enumerate((6, 8, 10)):
        own = folder / "steps" / str(number + 1)
        network = build_side(prepared.experiment.student, classes, source.test)
        network.load_state_dict(student(own))
        network.to(memory_format=torch.channels_last)
        means = []
        for numbers in read(own, "memory")["exemplars"].values():
            assert len(numbers) == 3
            _, embedding = predict(network, source.train.select(torch.tensor(numbers)), prepared.settings)
            means.append(normalise(embedding).mean(0))
        _, embedding = predict(network, source.test, prepared.settings)
        right = torch.cosine_similarity(embedding[:, None], torch.stack(means), dim=2).argmax(1)
        rows = source.test.labels < classes
        seen = 100 * (right == source.test.labels)[rows].double().mean().item()
        assert read(folder, "matrix")["ncm"]["seen"][number] == pytest.approx(seen)
