"""The papers' grids: each row of each pair is built and takes a step, on generated images in the published layout."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from torchvision import models
from torchvision.datasets import CIFAR10, CIFAR100

from gkd.commands.dry_run import dry_run
from gkd.commands.grid_cells import cells, published_numbers, section
from gkd.config.load import load
from gkd.config.method_files import configs_folder
from gkd.config.shipped import shipped_configs
from gkd.models import build_network
from tests.cli_helpers import gkd
from tests.library_caches import empty_caches
from tests.paper_data import (
    write_cifar,
    write_cinic10,
    write_cub200,
    write_imagenet,
    write_mini_imagenet,
    write_tiny_imagenet,
)

PAPERS = [name for name in shipped_configs() if name.startswith("paper/")]
WITH_NUMBERS = [name for name in PAPERS if section(load(name)).published is not None]


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Writes CIFAR-10 and CIFAR-100 into data/ where the test runs, and the benchmark's teachers into teachers/."""

    def write(*networks: str, train: int = 2) -> None:
        for dataset in (CIFAR10, CIFAR100):
            write_cifar(dataset, tmp_path / "data", monkeypatch, train=train)
        for network in networks:
            path = Path("teachers") / f"{network}_vanilla" / "ckpt_epoch_240.pth"
            path.parent.mkdir(parents=True)
            torch.save({"model": build_network(network, num_classes=100).state_dict()}, path)

    monkeypatch.chdir(tmp_path)
    return write


@pytest.fixture
def imagenets_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts random weights in the place of those that torchvision publishes."""
    caches = empty_caches(tmp_path / "caches", monkeypatch)
    folder = caches / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)

    def write(*networks: str) -> None:
        for network in networks:
            weights = models.get_model_weights(network)["IMAGENET1K_V1"]
            module: nn.Module = models.get_model(network, weights=None)
            torch.save(module.state_dict(), folder / Path(weights.url).name)

    return write


@pytest.mark.parametrize("name", PAPERS)
def test_every_cell_is_an_experiment(name: str) -> None:
    """Each row's settings at each place of the grid, before any image is read."""
    resolved = load(name, ["compare.seeds=[0]"])
    places = [(cell.label, str(cell.axes)) for cell in cells(resolved)]
    assert len(set(places)) == len(places) > 0


@pytest.mark.parametrize("name", WITH_NUMBERS)
def test_every_published_number_is_of_a_cell_and_names_its_source(name: str) -> None:
    resolved = load(name)
    numbers = published_numbers(resolved)
    assert numbers
    assert all(each.source and 0 < each.accuracy < 100 for each in numbers)
    places = [str(each) for each in numbers]
    assert len(set(places)) == len(places)
    pairs = {each.axes["pair"] for each in numbers if "pair" in each.axes}
    assert pairs == section(resolved).pairs.keys()


def test_no_published_number_is_of_a_config_that_does_not_read_it() -> None:
    """A line of another config's name would be passed over in silence."""
    read, written = set(), set()
    for name in WITH_NUMBERS:
        published = section(load(name)).published
        assert published is not None
        read.add((published.resolve(), name.rpartition("/")[2]))
    for path in (configs_folder() / "paper").rglob("published.csv"):
        with path.open(newline="") as lines:
            written |= {(path.resolve(), line["config"]) for line in csv.DictReader(lines)}
    assert read == written


NONE_SEEN = ("refilled_cifar100", "paper/cross_task/refilled_cub200", "affinity", "stkd")


@pytest.mark.parametrize("name", [name for name in PAPERS if name.endswith(NONE_SEEN)])
def test_where_no_number_was_seen_the_file_says_so(name: str) -> None:
    assert name not in WITH_NUMBERS
    assert "no published number" in shipped_configs()[name].read_text().splitlines()[0]


def test_a_part_of_the_rows_can_be_asked_for() -> None:
    """The pairs change terms of rows that are then left out."""
    asked = load("paper/standard/cifar100", ["compare.methods=[student, kd]", "compare.seeds=[0]"])
    assert len(list(cells(asked))) == 2 * 13


# One cell of each grid: its row, a part of its place, and overrides that make it small.
SMALL = ("data.batch_size=8", "run.threads=1")
AT_32 = ("data.image_size=32",)
FEW = ("task.episodes.count=2", "task.episodes.queries=1")
OF_32 = (*AT_32, "student.options.image_size=32")  # networks whose embedding goes by the image's size
FEW_QUERIES = "method.stages.episodes.episodes.queries=1"
ONE_CELL: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "paper/standard/cifar100": ("dist", "wrn_40_2-wrn_16_2", ()),
    "paper/standard/cifar10_sp": ("sp", "wrn_40_1-wrn_16_1", ()),
    "paper/standard/sakd": ("ft adaptive", "wrn_40_2-wrn_16_2", ()),
    "paper/standard/sakd_tiny_imagenet": ("at adaptive", "resnet56-resnet20", AT_32),
    "paper/standard/stkd": ("stkd on the other classes", "cinic10 wrn_40_2-wrn_16_2", ()),
    "paper/standard/affinity": ("cosine standardise l2, map", "wrn_40_2-wrn_16_2", ()),
    "paper/standard/cub200_refilled": ("refilled_cvpr", "mobilenet_1_0-mobilenet_0_25", AT_32),
    "paper/standard/imagenet": ("dkd", "resnet34-resnet18", AT_32),
    "paper/cross_task/refilled_cifar100": ("refilled_weighted", "'task.shift': 20, 'student.network': 'wrn_16_1'", ()),
    "paper/cross_task/refilled_cub200": ("refilled", "'task.shift': 60, 'student.network': 'mobilenet_0_25'", AT_32),
    "paper/few_shot/cifar_fs_cross": ("refilled_joint", "{}", FEW),
    "paper/few_shot/cifar_fs_rfs": ("born_again", "{}", FEW),
    "paper/few_shot/fc100_rfs": ("student", "{}", FEW),
    "paper/few_shot/mini_imagenet_rfs": ("born_again", "{}", (*FEW, *OF_32, "teacher.options.image_size=32")),
    "paper/few_shot/mini_imagenet_protonet": ("protonet of 1 shot", "{}", (*FEW, *OF_32, FEW_QUERIES)),
    "paper/incremental/cifar100_b0_inc10": ("wa", "{}", ()),
    "paper/incremental/cifar100_b50_inc10": ("podnet", "{}", ()),
}  # fmt: skip


def write_for(
    name: str, cifar: Callable[..., None], imagenets_teachers: Callable[..., None], *, each: int = 8
) -> None:
    """The data of a config in its layout, and the teachers that its small cell needs.

    Args:
        name: of the config.
        cifar, imagenets_teachers: the fixtures.
        each: images a class of mini-ImageNet.
    """
    config = shipped_configs()[name].read_text()
    if "tiny_imagenet" in name:
        write_tiny_imagenet(Path("data/tiny-imagenet-200"), classes=20)
    elif "stkd" in name:
        write_cinic10(Path("data/CINIC-10"))
    elif "cub200" in name:
        write_cub200(Path("data/CUB_200_2011"))
    elif "mini_imagenet" in name:
        write_mini_imagenet(Path("data/mini_imagenet"), each=each)
    elif name.endswith("imagenet"):
        write_imagenet(Path("data/imagenet"), classes=20)
        imagenets_teachers("resnet34")
    else:
        train = 12 if any(word in name for word in ("few_shot", "refilled", "increm")) else 2
        cifar(*(["wrn_40_2"] if "teachers/wrn_40_2" in config else []), train=train)


def test_every_paper_config_has_its_cell() -> None:
    assert set(ONE_CELL) == set(PAPERS)


@pytest.mark.parametrize("name", ONE_CELL)
def test_a_cell_of_each_grid_takes_its_steps(
    name: str, cifar: Callable[..., None], imagenets_teachers: Callable[..., None]
) -> None:
    label, place, words = ONE_CELL[name]
    write_for(name, cifar, imagenets_teachers)
    grid = cells(load(name, ["compare.seeds=[0]"]))
    (cell,) = (cell for cell in grid if cell.label == label and place in str(cell.axes))
    untrained = ["teacher.expect=null"] if cell.resolved.experiment.teacher is not None else []
    small = cell.resolved.with_overrides([*SMALL, *words, *untrained])
    assert dry_run(small, Console(quiet=True)) > 0


@pytest.mark.parametrize("name", PAPERS)
def test_without_its_data_a_run_ends_with_what_to_fetch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", _offline)
    assert gkd("run", name, "run.threads=1") == 2
    out, error = capsys.readouterr()
    (sentence,) = error.splitlines()
    data = load(name).experiment.data.name
    assert data in sentence
    assert "http" in sentence
    assert "Traceback" not in out + error


def _offline(*_about: object, **_named: object) -> None:
    raise OSError("no connection")


def tried(
    name: str, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[list[str], dict[str, str], int]:
    """The rows that a dry run tries, those that fail with their reasons, and how many are absent."""
    gkd("compare", name, "compare.seeds=[0]", *SMALL, *words, "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    parts = [line[10:].partition(": ") for line in lines if line.startswith("failed")]
    failed = {row: reason for row, _, reason in parts}
    return (
        [line for line in lines if line.startswith("ok")],
        failed,
        sum(x.startswith("absent") for x in lines),
    )


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
@pytest.mark.parametrize(
    ("name", "pair"),
    [
        (name, pair)
        for name in ("paper/standard/cifar100", "paper/standard/sakd", "paper/standard/affinity")
        for pair in section(load(name)).pairs
    ],
)
def test_every_method_takes_every_pair_of_the_benchmarks_teachers(
    name: str, pair: str, cifar: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    grid = section(load(name))
    cifar(grid.pairs[pair]["teacher.network"])
    untrained = json.dumps({pair: {"teacher.expect": None}})
    words = [f"compare.pairs={untrained}", f"compare.pair={pair}"]
    ok, failed, _ = tried(name, capsys, *words)
    wide = name == "paper/standard/cifar100" and pair not in {*ALIKE, "vgg13-vgg8"}
    assert failed.keys() == ({f"'{method}', pair {pair}" for method in ("fsp", "kdsvd")} if wide else set())
    assert all("same number" in reason for reason in failed.values())
    assert len(ok) == len(grid.methods) - len(failed)


# Grids that train their teachers or take published ones: all rows at all places.
WHOLE: dict[str, tuple[str, ...]] = {
    "paper/standard/cifar10_sp": (),
    "paper/standard/sakd_tiny_imagenet": AT_32,
    "paper/standard/stkd": (),
    "paper/standard/cub200_refilled": AT_32,
    "paper/standard/imagenet": AT_32,
    "paper/few_shot/cifar_fs_cross": FEW,
    "paper/few_shot/cifar_fs_rfs": FEW,
    "paper/few_shot/fc100_rfs": FEW,
    "paper/few_shot/mini_imagenet_rfs": (*FEW, *OF_32, "teacher.options.image_size=32"),
    "paper/few_shot/mini_imagenet_protonet": (*FEW, *OF_32),
    "paper/incremental/cifar100_b0_inc10": (),
    "paper/incremental/cifar100_b50_inc10": (),
}


@pytest.mark.full
@pytest.mark.parametrize("name", WHOLE)
def test_every_row_takes_its_steps_at_every_place(
    name: str,
    cifar: Callable[..., None],
    imagenets_teachers: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = WHOLE[name]
    write_for(name, cifar, imagenets_teachers, each=22)
    if "stkd" in name:
        cifar()
        write_tiny_imagenet(Path("data/tiny-imagenet-200"), classes=20)
    if name.endswith("/imagenet"):
        imagenets_teachers("resnet50")
        untrained = {pair: {"teacher.expect": None} for pair in section(load(name)).pairs}
        words = (*words, f"compare.pairs={json.dumps(untrained)}")
    ok, failed, absent = tried(name, capsys, *words)
    assert failed == {}
    assert absent == 0
    assert len(ok) == len(list(cells(load(name, ["compare.seeds=[0]"]))))


# Windows: every relation under the smallest student, and every student of one relation.
CROSSES: list[tuple[str, dict[str, list[object]], tuple[str, ...], int]] = [
    ("cifar100", {"task.shift": [0, 10, 20, 30, 40, 50], "student.network": ["wrn_16_1"]}, (), 1),
    ("cifar100", {"task.shift": [20], "student.network": ["wrn_40_2", "wrn_16_2", "wrn_40_1"]}, (), 0),
    ("cub200", {"task.shift": [0, 20, 40, 60, 80, 100], "student.network": ["mobilenet_0_25"]}, AT_32, 1),
    ("cub200", {"task.shift": [60], "student.network": ["mobilenet_1_0", "mobilenet_0_75", "mobilenet_0_5"]}, AT_32, 0),
]  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize(("data", "axes", "words", "absent"), CROSSES)
def test_every_row_takes_its_steps_in_every_window(
    data: str,
    axes: dict[str, list[object]],
    words: tuple[str, ...],
    absent: int,
    cifar: Callable[..., None],
    imagenets_teachers: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """KD over no shared class is absent."""
    name = f"paper/cross_task/refilled_{data}"
    whole = section(load(name))
    assert all(set(values) <= set(whole.axes[key]) for key, values in axes.items())
    write_for(name, cifar, imagenets_teachers)
    ok, failed, are_absent = tried(name, capsys, *words, f"compare.axes={json.dumps(axes)}")
    places = len(axes["task.shift"]) * len(axes["student.network"])
    assert (failed, are_absent) == ({}, absent)
    assert len(ok) == places * len(whole.methods) - absent


def test_every_paper_config_is_tried_whole() -> None:
    with_teachers = {"paper/standard/cifar100", "paper/standard/sakd", "paper/standard/affinity"}
    crosses = {f"paper/cross_task/refilled_{data}" for data, *_ in CROSSES}
    assert {*WHOLE, *with_teachers, *crosses} == set(PAPERS)
