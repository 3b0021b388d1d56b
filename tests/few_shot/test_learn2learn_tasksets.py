"""learn2learn's tasksets by name: their images, their episodes, and what shares classes is refused."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import learn2learn
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from gkd.data.episodes import Episodes
from gkd.few_shot.learn2learn import (
    TASKSETS,
    learn2learn_episodes,
)
from tests.refusals import refused


def pixels(seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def write_cifarfs(root: Path, names: dict[str, list[str]]) -> None:
    for split, classes in names.items():
        for name in classes:
            folder = root / "cifarfs" / "processed" / ("val" if split == "validation" else split) / name
            folder.mkdir(parents=True)
            for number in range(6):
                (folder / f"{number}.png").write_bytes(png(pixels(number)))


def write_pickles(root: Path, name: str) -> None:
    """Three classes of six images a split, in the files that learn2learn reads."""
    (root / "tiered-imagenet").mkdir()
    labels = [0, 1, 2] * 6
    for seed, split in enumerate(("train", "validation", "test")):
        short = "val" if split == "validation" else split
        images = np.stack([pixels(100 * seed + number) for number in range(18)])
        written: dict[str, Any] = {
            "fc100": {f"FC100_{short}.pickle": {"data": images, "labels": labels}},
            "mini-imagenet": {
                f"mini-imagenet-cache-{split}.pkl": {
                    "image_data": images,
                    "class_dict": {f"{split}{k}": [i for i in range(18) if i % 3 == k] for k in range(3)},
                }
            },
            "tiered-imagenet": {
                f"tiered-imagenet/{short}_images_png.pkl": [png(image) for image in images],
                f"tiered-imagenet/{short}_labels.pkl": {"label_specific": labels},
            },
        }[name]
        for file, content in written.items():
            (root / file).write_bytes(pickle.dumps(content))


def write_omniglot(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 characters of 6 drawings, 12 of them in each of the two parts."""
    monkeypatch.setattr(torchvision.datasets.Omniglot, "_check_integrity", lambda self: True)
    for part in ("background", "evaluation"):
        for number in range(12):
            folder = root / "omniglot-py" / f"images_{part}" / f"{part} script" / f"character{number:02}"
            folder.mkdir(parents=True)
            for drawing in range(6):
                array = np.random.default_rng(drawing).integers(0, 2, (30, 30), dtype=np.uint8) * 255
                Image.fromarray(array).convert("1").save(folder / f"{number:04}_{drawing:02}.png")
        (root / "omniglot-py" / f"images_{part}.zip").touch()


def named(name: str, root: Path, split: str = "test", **options: Any) -> Any:
    given = {"ways": 2, "shots": 2, "queries": 3, "count": 4, "seed": 0, **options}
    return learn2learn_episodes(name, split=split, root=root, **given)


@pytest.mark.parametrize("name", ["fc100", "mini-imagenet", "tiered-imagenet"])
def test_a_named_taskset_gives_its_images_and_episodes(name: str, tmp_path: Path) -> None:
    write_pickles(tmp_path, name)
    images, episodes = named(name, tmp_path)
    assert torch.equal(
        images.images, torch.from_numpy(np.stack([pixels(200 + i) for i in range(18)])).movedim(3, 1)
    )
    assert images.labels.tolist() == [0, 1, 2] * 6
    first = "test0" if name == "mini-imagenet" else "test/0"
    assert (images.space.names[0], images.name) == (first, name)
    assert isinstance(episodes, Episodes)
    assert episodes.index.shape == (4, 2, 5)
    assert torch.equal(images.labels[episodes.index[:, :, 0]], episodes.classes)


def test_cifarfs_has_class_names_and_a_class_in_two_splits_is_refused(tmp_path: Path) -> None:
    write_cifarfs(
        tmp_path, {"train": ["ant", "bee", "cat"], "validation": ["dog", "eel"], "test": ["fox", "gnu"]}
    )
    images, _ = named("cifarfs", tmp_path)
    assert images.space.names == ("fox", "gnu")
    other = tmp_path / "other"
    other.mkdir()
    write_cifarfs(
        other, {"train": ["ant", "bee", "fox"], "validation": ["dog", "eel"], "test": ["fox", "gnu"]}
    )
    with refused("shared-classes"):
        named("cifarfs", other)
    assert len(named("cifarfs", other, allow_leak=True)[0]) == 12
    assert len(named("cifarfs", other, split="validation")[1]) == 4


def test_omniglots_splits_share_their_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_omniglot(tmp_path, monkeypatch)
    write = learn2learn.data.FilteredMetaDataset.__init__
    present = lambda self, whole, labels: write(self, whole, [k for k in labels if k < 24])  # noqa: E731
    monkeypatch.setattr(learn2learn.data.FilteredMetaDataset, "__init__", present)  # of its 1,623 characters
    with refused("shared-classes"):
        named("omniglot", tmp_path)
    images, episodes = named("omniglot", tmp_path, allow_leak=True, count=100)
    assert images.images.shape == (144, 1, 28, 28)
    assert len(images.space) == 24
    assert len(episodes.classes.unique()) == 24


def test_a_named_taskset_without_its_files_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a download was tried"))
    assert list(TASKSETS) == list(learn2learn.vision.benchmarks.list_tasksets())
    for name in TASKSETS:
        with refused("data-file-missing"):
            named(name, tmp_path)
    with refused("unknown-taskset"):
        named("cifar-fs", tmp_path)
    with refused("unknown-split"):
        named("fc100", tmp_path, split="val")
    (tmp_path / "cifarfs").mkdir()
    with refused("taskset-unreadable"):
        named("cifarfs", tmp_path)


def test_without_learn2learn_the_lines_that_install_it_are_told_and_the_rest_works(tmp_path: Path) -> None:
    """Neither where it is missing, nor where what it imports is: as gym, without which none of it can be imported."""
    code = (
        "import sys; sys.modules['learn2learn'] = None\n"
        "import torch\n"
        "from gkd.data.episodes import draw_episodes\n"
        "from gkd.few_shot.learn2learn import learn2learn_episodes, taskset_episodes\n"
        "from gkd.core.errors import UserError\n"
        "episodes = draw_episodes(torch.arange(60) % 6, count=2, ways=3, shots=1, queries=2, seed=0)\n"
        "assert len(episodes) == 2\n"
        "def told():\n"
        "    for call in (\n"
        "        lambda: taskset_episodes(None, torch.arange(2), shots=1, queries=1, count=1, seed=0),\n"
        "        lambda: learn2learn_episodes('fc100', root='.', ways=2, shots=1, queries=1, count=1, seed=0),\n"
        "    ):\n"
        "        try:\n"
        "            call()\n"
        "        except UserError as error:\n"
        "            print(error)\n"
        "told()\n"
        "del sys.modules['learn2learn']; sys.path.insert(0, sys.argv[1])\n"
        "told()\n"
    )
    (tmp_path / "learn2learn").mkdir()
    (tmp_path / "learn2learn" / "__init__.py").write_text("import gym_that_is_not_here")
    command = [sys.executable, "-c", code, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (
        told.count("learn2learn cannot be imported (ModuleNotFoundError: import of learn2learn halted") == 2
    )
    assert told.count("imported (ModuleNotFoundError: No module named 'gym_that_is_not_here'") == 2
    assert told.count("\n  pip install gym requests tqdm scipy\n") == 4
    assert (
        told.count(
            '\n  pip install --no-deps --config-settings="--build-option=build_ext" learn2learn==0.2.0'
        )
        == 4
    )
