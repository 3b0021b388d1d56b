"""How tests call the command line: in this process, or as a real one that can be killed."""

import contextlib
import json
import os
import pty
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gkd.cli import main
from tests.processes import Child, command_line

# A run of about a second: few steps on digits, no teacher trained unless a test asks for one.
FAST = ("run.epochs=4", "teacher.train.epochs=1", "evaluate.every=2", "run.threads=1")
# A run like it on the photographs of `write_photos`, as photos.zip where it runs.
PHOTOS = (
    "run", "cross_task/photos", "data.root=photos.zip", "data.batch_size=6",
    "data.image_size=null", "task.teacher_classes=null", "student.network=resnet8", "teacher.network=resnet8",
    "teacher.train.batch_size=6", "optimiser.lr=0.01", *FAST,
)  # fmt: skip


def gkd(*words: str) -> int:
    """The exit code of ``gkd WORDS`` in this process."""
    try:
        return main(list(words))
    except SystemExit as stop:  # argparse
        return int(stop.code or 0)


def on_a_terminal(columns: int, *words: str) -> list[str]:
    """The lines that ``gkd WORDS`` prints, in this process, on a terminal of so many columns; its exit code is 0."""
    ours, theirs = pty.openpty()
    said = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # how the end of a terminal reads
            while part := os.read(ours, 65536):
                said.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    with pytest.MonkeyPatch.context() as patch, open(theirs, "w") as out:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stdout", out)
        assert gkd(*words) == 0
    reader.join()
    os.close(ours)
    return said.decode().splitlines()


def write_bare(root: Path, num: int = 40) -> None:
    """Grey images without labels, some of them in a folder of their own."""
    generator = np.random.default_rng(0)
    (root / "more").mkdir(parents=True, exist_ok=True)
    for number in range(num):
        pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("more" if number % 2 else ".") / f"{number}.png")


def start(*words: str, cwd: Path) -> Child:
    """``gkd WORDS`` as a process of its own, with one thread."""
    return Child(command_line, *words, cwd=cwd)


def write_photos(path: Path, *, corrupt: str | None = None, empty: str | None = None, seed: int = 0) -> None:
    """A zip of three classes of six 8-pixel images in train and test; one file or class of it spoilt."""
    generator = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("train", "test"):
            for name in ("cat", "dog", "owl"):
                if name == empty:
                    archive.writestr(f"{split}/{name}/", "")
                    continue
                for number in range(6):
                    file = f"{split}/{name}/{number}.png"
                    if file == corrupt:
                        archive.writestr(file, b"\x89PNG not an image")
                        continue
                    with archive.open(file, "w") as out:
                        Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(
                            out, "PNG"
                        )


def summary_of(folder: Path) -> dict:
    """The one finished run of the photographs under a folder."""
    (path,) = (folder / "photos" if (folder / "photos").exists() else folder / "cross_task").rglob(
        "summary.json"
    )
    return {**json.loads(path.read_text()), "folder": path.parent}


def write_folders(root: Path, classes: dict[str, int], *, side: int = 8) -> None:
    """Colour photographs of noise as ``SPLIT/CLASS/FILE``: so many of each class, in train and in test."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 255, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
