"""The classes of a teacher that keeps its own: named by the config, a file, a library; or unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gkd.config.schema import Teacher
from gkd.experiment.teacher_classes import own_classes
from gkd.models import build_network
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import save_weights
from tests.refusals import refused


def teacher(tmp_path: Path, *, stated: tuple[str, ...] | None = ("cat", "dog"), **more: Any) -> Teacher:
    path = tmp_path / "w.safetensors"
    state = build_network("resnet8", num_classes=2).state_dict()
    save_weights(path, state, WeightMetadata(network="resnet8", classes=stated).to_header())
    return Teacher(network="resnet8", checkpoint=path, **more)


def test_classes_come_from_where_the_config_says(tmp_path: Path) -> None:
    assert own_classes(teacher(tmp_path)) is None  # the task's
    unknown = own_classes(teacher(tmp_path, classes=None))
    assert unknown is not None
    assert not unknown.named
    (tmp_path / "names.txt").write_text("owl\n\n fox \n")
    for classes, names in (
        ("file", ("cat", "dog")),
        (("a", "b"), ("a", "b")),
        (str(tmp_path / "names.txt"), ("owl", "fox")),
    ):
        space = own_classes(teacher(tmp_path, classes=classes))
        assert space is not None
        assert (space.names, space.named) == (names, True)
    space = own_classes(teacher(tmp_path, classes="imagenet-1k"))
    assert space is not None
    assert len(space) == 1000


def test_of_a_librarys_weights_the_library_names_the_classes() -> None:
    space = own_classes(Teacher(network="torchvision/resnet18", pretrained=True))
    assert space is not None
    assert space.names[0] == "n01440764"
    headless = own_classes(Teacher(network="timm/vit_small_patch14_dinov2.lvd142m", pretrained=True))
    assert headless is not None
    assert not headless.named


@pytest.mark.parametrize(
    ("stated", "classes", "code"),
    [
        (None, "file", "classes-missing"),
        (("cat", "dog"), "nowhere.txt", "unknown-label-set"),
        (("cat", "dog"), ("a", "a"), "class-twice"),
    ],
)
def test_classes_that_nobody_names_are_refused(
    tmp_path: Path, stated: tuple[str, ...] | None, classes: Any, code: str
) -> None:
    with refused(code):
        own_classes(teacher(tmp_path, stated=stated, classes=classes))


def test_a_file_of_names_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x00")
    with refused("file-unreadable"):
        own_classes(teacher(tmp_path, classes=str(tmp_path / "names.txt")))


@pytest.mark.parametrize(
    "section",
    [
        {"classes": ["a", "b"]},
        {"classes": None},
        {"pretrained": True, "network": "timm/resnet10t", "classes": "file"},
        {"pretrained": True, "network": "timm/resnet10t", "checkpoint": "w.pth"},
    ],
)
def test_classes_are_of_a_teacher_that_is_given(section: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"give its checkpoint|leave classes out|drop one of them"):
        Teacher(**{"network": "resnet8", **section})
