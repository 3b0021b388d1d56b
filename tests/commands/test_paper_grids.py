"""The papers' grids: each row of each pair is built and takes a step, on generated images in the published layout."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from gkd.commands.grid_cells import cells, published_numbers, section
from gkd.config.load import load
from gkd.config.shipped import shipped_configs
from gkd.models import build_network
from tests.cli_helpers import gkd

WITH_PAIRS = [
    name
    for name in shipped_configs()
    if name.startswith("paper/") and (compare := load(name).experiment.compare) is not None and compare.pairs
]


def write_cifar(dataset: type[CIFAR10], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set's files with two training images and one test image of each class, and torchvision's word for them."""
    folder = folder / dataset.base_folder
    folder.mkdir(parents=True)
    classes, kind = (100, "fine_label") if issubclass(dataset, CIFAR100) else (10, "label")
    generator = np.random.default_rng(0)

    def written(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for name, lines, each in (("train", "train_list", 2), ("test", "test_list", 1)):
        labels = [label for label in range(classes) for _ in range(each)]
        pixels = generator.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        md5 = written(name, {"data": pixels, "fine_labels" if classes == 100 else "labels": labels})
        monkeypatch.setattr(dataset, lines, [[name, md5]])
    key = f"{kind}_names"
    md5 = written("meta", {key: [f"class {label}" for label in range(classes)]})
    monkeypatch.setattr(dataset, "meta", {"filename": "meta", "key": key, "md5": md5})


@pytest.mark.parametrize("name", WITH_PAIRS)
def test_every_published_number_is_of_a_cell_and_names_its_source(name: str) -> None:
    resolved = load(name)
    numbers = published_numbers(resolved)
    assert numbers
    assert all(each.source and 0 < each.accuracy < 100 for each in numbers)
    places = [(each.label, tuple(each.axes.items())) for each in numbers]
    assert len(set(places)) == len(places)
    assert {each.axes["pair"] for each in numbers} == section(resolved).pairs.keys()


def test_a_part_of_the_rows_can_be_asked_for() -> None:
    """The pairs change terms of rows that are then left out."""
    asked = load("paper/standard/cifar100", ["compare.methods=[student, kd]", "compare.seeds=[0]"])
    assert len(list(cells(asked))) == 2 * 13


# Flow matrices and singular vectors of channels need as many channels on both sides.
ALIKE = {
    "resnet56-resnet20",
    "resnet110-resnet20",
    "resnet110-resnet32",
    "resnet32x4-resnet8x4",
    "wrn_40_2-wrn_16_2",
}
CIFAR100_GRID = section(load("paper/standard/cifar100"))


@pytest.mark.full
@pytest.mark.parametrize("pair", CIFAR100_GRID.pairs)
def test_every_method_takes_every_pair_of_the_cifar100_benchmark(
    pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(CIFAR100, tmp_path / "data", monkeypatch)
    network = CIFAR100_GRID.pairs[pair]["teacher.network"]
    path = Path("teachers") / f"{network}_vanilla" / "ckpt_epoch_240.pth"
    path.parent.mkdir(parents=True)
    torch.save({"model": build_network(network, num_classes=100).state_dict()}, path)
    untrained = json.dumps({pair: {"teacher.expect": None}})
    words = (f"compare.pairs={untrained}", f"compare.pair={pair}", "compare.seeds=[0]", "data.batch_size=8")
    gkd("compare", "paper/standard/cifar100", *words, "run.threads=1", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    failed = {line[10:].partition(": ")[0] for line in lines if line.startswith("failed")}
    wide = not (pair in ALIKE or pair == "vgg13-vgg8")
    assert failed == ({f"'{method}', pair {pair}" for method in ("fsp", "kdsvd")} if wide else set())
    reasons = [line for line in lines if line.startswith("failed")]
    assert all("same number" in reason for reason in reasons)
    assert sum(line.startswith("ok") for line in lines) == len(CIFAR100_GRID.methods) - len(failed)


@pytest.mark.full
def test_sps_pairs_on_cifar10_train_their_teachers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(CIFAR10, tmp_path / "data", monkeypatch)
    words = ("compare.seeds=[0]", "data.batch_size=8", "run.threads=1", "--dry-run")
    assert gkd("compare", "paper/standard/cifar10_sp", *words) == 0
    assert sum(line.startswith("ok") for line in capsys.readouterr().out.splitlines()) == 4
