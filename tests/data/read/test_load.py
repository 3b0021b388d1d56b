"""Data sets by name: what is known, and a user's own by ``pkg.module:factory``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gkd.core.errors import UserError
from gkd.data import DATASETS, check_dataset_name, load_images
from tests.refusals import refused


def test_unknown_names() -> None:
    with pytest.raises(UserError) as error:
        load_images("cifar-100", "train")
    assert "Did you mean 'cifar100'" in str(error.value)
    assert all(name in str(error.value) for name in DATASETS)
    with refused("unknown-split"):
        load_images("digits", "tests")  # type: ignore[arg-type]


FACTORY = """
import numpy as np
from pathlib import Path

print("imported")


class Stripes:
    classes = ["across", "down"]

    def __init__(self, count):
        self.labels = [i % 2 for i in range(count)]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        pixels = np.zeros((6, 6), dtype=np.uint8)
        if self.labels[i]:
            pixels[:, ::2] = i + 1
        else:
            pixels[::2] = i + 1
        return pixels, self.labels[i]


def make(*, split, root):
    assert root is None or isinstance(root, Path)
    return Stripes({"train": 8, "test": 4}[split])


def no_split(root):
    return Stripes(2)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "my_stripes.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("my_stripes", None)


def test_a_data_set_of_ones_own(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_dataset_name("my_stripes:make")
    assert capsys.readouterr().out == ""  # a name is checked without importing it
    train, test = (load_images("my_stripes:make", split, root=own) for split in ("train", "test"))
    assert capsys.readouterr().out == "imported\n"
    assert (len(train), len(test)) == (8, 4)
    assert train.space.names == ("across", "down")
    assert train.images.shape == (8, 1, 6, 6)
    assert load_images("my_stripes:make", "test", channels=3, image_size=4).images.shape == (4, 3, 4, 4)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("my_stripes:male", "unknown-name"),
        ("no_such_module:make", "module-missing"),
        ("my_stripes:no_split", "keyword-missing"),
        ("my_stripes:Stripes.classes", "not-a-callable"),
        ("my_stripes:", "unknown-data-set"),
    ],
)
def test_a_data_set_of_ones_own_that_is_not_there(own: Path, name: str, code: str) -> None:
    with refused(code):
        load_images(name, "train")
