"""Which experiments are the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gkd.config.load import load
from gkd.data import fingerprint
from tests.config_helpers import tiny
from tests.refusals import refused


@pytest.mark.parametrize(
    "override",
    [
        "run.out=elsewhere", "run.threads=1", "run.device=cpu", "run.seed=3", "run.checkpoint_seconds=1",
        "evaluate.batch_size=7", "data.download=true", "run.precision=auto", "optimiser.lr=0.1",
        "method.stages.embedding.terms.tuples.margin=0.2", "method.stages.embedding.terms.tuples.temperature=4",
        "method.stages.classifier.terms.induced.normalise=false", "student.options={}", "teacher.taps={}",
        "teacher.taps.stages=null",
    ],
)  # fmt: skip
def test_identity_ignores_what_does_not_change_the_result(override: str) -> None:
    """Nor a value that was so before, a loss's default among them."""
    assert tiny(override).identity == tiny().identity


def test_identities_of_earlier_versions_stay() -> None:
    """Committed cells are known by them."""
    assert load("quickstart", ["method=sp", "data.per_class=5"]).identity == "1f48929a23"


def images_in(folder: Path, content: bytes) -> str:
    """A class folder with one file in it; the override that points there."""
    path = folder / "train" / "cat" / "0.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return f"data.root={folder}"


def test_identity_follows_the_images_not_where_they_are(tmp_path: Path) -> None:
    """Two data sets of one file name are two runs; the same images elsewhere, or pinned, are one."""
    here, moved, other = (
        images_in(tmp_path / name / "images", content)
        for name, content in {"a": b"first", "b": b"first", "c": b"other"}.items()
    )
    folder = "data.name=folder"
    assert tiny(folder, here).identity == tiny(folder, moved).identity
    assert tiny(folder, here).identity != tiny(folder, other).identity
    pinned = f"data.fingerprint={fingerprint(tmp_path / 'a' / 'images')}"
    assert tiny(folder, here).identity == tiny(folder, pinned, "data.root=/not/there.zip").identity


def test_images_that_are_not_there_are_known_by_their_name() -> None:
    folder = "data.name=folder"
    assert tiny(folder, "data.root=/a/images").identity == tiny(folder, "data.root=/b/images").identity
    assert tiny(folder, "data.root=/a/images").identity != tiny(folder, "data.root=/a/pictures").identity


def test_every_layout_is_known_by_its_images_and_its_lists(tmp_path: Path) -> None:
    def cinic(folder: Path, content: bytes) -> str:
        for split in ("train", "valid", "test"):
            path = folder / split / "cat" / "0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        return f"data.root={folder}"

    here, moved, other = (
        cinic(tmp_path / name, content) for name, content in {"a": b"1", "b": b"1", "c": b"2"}.items()
    )
    name = "data.name=cinic10"
    assert tiny(name, here).identity == tiny(name, moved).identity
    assert tiny(name, here).identity != tiny(name, other).identity
    assert tiny(name, here).identity != tiny("data.name=cinic10_train_valid", here).identity
    pinned = f"data.fingerprint={fingerprint(tmp_path / 'a', 'cinic10')}"
    assert tiny(name, here).identity == tiny(name, pinned, "data.root=/not/there").identity
    assert tiny(name, here).with_images_named().experiment.data.fingerprint == fingerprint(
        tmp_path / "a", "cinic10"
    )


def test_a_factorys_data_are_known_by_where_they_are() -> None:
    """What it reads there is not known, and naming it imports nothing."""
    own = "data.name=no_such_module:make"
    assert tiny(own, "data.root=/a/images").identity != tiny(own, "data.root=/b/images").identity
    assert tiny(own).identity != tiny("data.name=no_such_module:other").identity


def test_a_fingerprint_is_for_image_files() -> None:
    with refused("invalid-config"):
        tiny(f"data.fingerprint={'ab' * 32}")


@pytest.mark.parametrize(
    "override",
    [
        "method.stages.embedding.terms.tuples.margin=0.3",
        "method.stages.embedding.terms.tuples.mining=all",
        "method.stages.classifier.terms.induced.weight=2",
        "optimiser.lr=0.3", "task.shift=1", "data.per_class=5", "student.network=resnet14", "method=sp",
        "run.epochs=10", "run.precision=bf16", "run.deterministic=true", "evaluate.every=2",
        "data.validation.seed=1", "teacher.train.epochs=9", "teacher.weights=best",
        "teacher.taps={maps: [layer1]}", "teacher.taps={stages: [[conv1], [layer1]]}",
    ],
)  # fmt: skip
def test_identity_follows_what_changes_the_result(override: str) -> None:
    if override == "data.validation.seed=1":
        override = "data.validation={fraction: 0.1, seed: 1}"
    assert tiny(override).identity != tiny().identity


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_options_of_a_network_name_the_run(side: str) -> None:
    plain = tiny(f"{side}.network=wrn_10_1")
    assert tiny(f"{side}.network=wrn_10_1", f"{side}.options={{dropout: 0.1}}").identity != plain.identity


def test_two_teachers_whose_files_have_one_name_are_two_identities(tmp_path: Path) -> None:
    """gkd itself calls every student it saves student.safetensors."""
    paths = []
    for name in ("first", "second"):
        path = tmp_path / name / "student.safetensors"
        path.parent.mkdir()
        torch.save({"w": torch.tensor(len(paths))}, path)
        paths.append(path)
    one, other = (tiny(f"teacher.checkpoint={path}").identity for path in paths)
    assert one != other


def test_images_that_change_between_two_commands_are_seen(tmp_path: Path) -> None:
    """Within one process too: a notebook loads its config again."""
    root = images_in(tmp_path / "images", b"first")
    words = ["data.name=folder", root]
    first = load("quickstart", words).identity
    (tmp_path / "images" / "train" / "cat" / "0.png").write_bytes(b"other")
    assert load("quickstart", words).identity != first
