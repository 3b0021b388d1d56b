"""Images that a config names, by their fingerprint."""

from __future__ import annotations

import pytest

from gkd.config.load import load
from gkd.data import content_at
from gkd.experiment.prepare import prepare
from gkd.experiment.sources import load_source
from gkd.training.caches import Caches
from tests.cli_helpers import write_bare
from tests.refusals import refused


def test_images_of_another_fingerprint_are_refused(tmp_path):
    path = tmp_path / "train" / "cat" / "0.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"never decoded")
    words = ["data.name=folder", f"data.root={tmp_path}", f"data.fingerprint={'ab' * 32}"]
    with refused("other-images"):
        prepare(load("cross_task/digits", words))


def test_a_fingerprint_of_either_kind_is_verified(two_classes, write_tree):
    root = write_tree(two_classes)
    content = content_at(root)
    for pin in (content.sha256, content.crc, f"crc:{content.crc}"):
        words = [
            "data.name=folder",
            f"data.root={root}",
            f"data.fingerprint={pin}",
            "data.validation={per_class: 1}",
        ]
        assert len(load_source(load("cross_task/digits", words).experiment.data).test) == 6
        (root / "train" / "ant" / "more.png").write_bytes(two_classes["train/ant/00.png"])
        with refused("other-images"):
            load_source(load("cross_task/digits", words).experiment.data)
        (root / "train" / "ant" / "more.png").unlink()


def test_images_without_labels_are_read_once_where_a_method_trains_on_them(tmp_path):
    """They are those of the fingerprint, and cells of a grid share them."""
    write_bare(tmp_path / "bare", 30)
    words = [f"data.unlabelled.root={tmp_path / 'bare'}", "method=unlabelled_both"]
    caches = Caches()
    first, again = (
        prepare(load("cross_task/digits", words), caches=caches).problem.unlabelled for _ in range(2)
    )
    assert first is again
    assert len(first) == 30
    pin = load("cross_task/digits", words).with_images_named().experiment.data.unlabelled.fingerprint
    assert (
        len(
            prepare(
                load("cross_task/digits", [*words, f"data.unlabelled.fingerprint={pin}"])
            ).problem.unlabelled
        )
        == 30
    )
    with refused("other-images"):
        prepare(load("cross_task/digits", [*words, f"data.unlabelled.fingerprint=sha256:{'ab' * 32}"]))


def test_files_that_cannot_be_read_are_named_before_a_fingerprint_is_missed(two_classes, write_tree):
    root = write_tree(two_classes)
    words = ["data.name=folder", f"data.root={root}", f"data.fingerprint={content_at(root).sha256}"]
    with open(root / "train" / "ant" / "00.png", "wb") as file:
        file.truncate(2**30)
    with refused("data-file-too-large"):
        load_source(load("cross_task/digits", words).experiment.data)


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_a_size_that_the_memory_does_not_hold_is_refused_before_an_image_is_decoded(
    two_classes, write_tree, monkeypatch, name
):
    """Of arrays, of image files in memory, and of the batches of those that stay on disk."""
    monkeypatch.setattr("gkd.core.memory.available_memory", lambda: 2**30)
    monkeypatch.setattr("gkd.data.read.listing.decode", None)
    words = [f"data.name={name}", "data.image_size=8000", "data.validation={per_class: 1}"]
    words += [f"data.root={write_tree(two_classes)}"] if name == "folder" else []
    for more in ([], ["data.memory_gb=0"]):
        with refused("memory-missing"):
            load_source(load("cross_task/digits", [*words, *more]).experiment.data)


def test_sections_that_read_the_same_images_share_them(monkeypatch):
    """Batches, limits and normalisation change no pixel; a teacher's training on the student's data reads nothing."""
    caches = Caches()

    def source(*words):
        return load_source(load("cross_task/digits", list(words)).experiment.data, caches)

    first = source()
    assert source("data.batch_size=64", "data.per_class=null", "data.mean=[0.5]", "data.std=[0.5]") is first
    assert source("data.augment=none", "data.subset_seed=3") is first
    assert source("data.validation={per_class: 20, seed: 1}") is not first
    assert source("data.image_size=16").train.size == (16, 16)
    monkeypatch.setattr("gkd.core.memory.available_memory", lambda: 2**18)
    assert source("data.batch_size=10") is first
    with refused("memory-missing"):  # though the images are there
        source("data.batch_size=1000")
