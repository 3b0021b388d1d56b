"""What is run under faults: small runs of every task, and of the methods that keep state of their own."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fly", "gnu", "hen")
IMAGES = "photos.zip"
CONFIG = "faults.yaml"
IMAGE = "one.png"  # of the test images
# A checkpoint after every step, so that a fault finds something to damage wherever it strikes.
_COMMON = """
data: {name: folder, root: photos.zip, validation: {per_class: 2}, batch_size: 16, augment: crop}
evaluate: {every: 1}
run: {epochs: 2, precision: float32, threads: 1, checkpoint_seconds: 0}
"""
_TEACHER = "teacher: {network: resnet8, train: {epochs: 1, batch_size: 16}}\n"
_STUDENT = "student: {network: resnet8}\n"
_STEPS = "task: {name: incremental, base: 4, increment: 2, memory_per_class: 3}\n" + _STUDENT


@dataclass(frozen=True)
class Scenario:
    """A command and the config that it runs.

    Attributes:
        config: the content of the experiment file.
        verb: ``run`` or ``compare``.
        overrides: further words of the command.
    """

    config: str
    verb: str = "run"
    overrides: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        return self.verb, CONFIG, *self.overrides

    def write(self, folder: Path) -> Path:
        """Write the config and its images into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(self.config + _COMMON)
        (folder / IMAGES).write_bytes(images())
        with zipfile.ZipFile(folder / IMAGES) as archive:
            (folder / IMAGE).write_bytes(archive.read("test/cat/00.png"))
        return folder


ALONE = "alone"  # the least: four steps without a teacher
SCENARIOS: dict[str, Scenario] = {
    ALONE: Scenario(
        "task: {name: standard}\nmethod: student\n" + _STUDENT,
        overrides=("run.epochs=1", "data.batch_size=24"),
    ),
    "standard": Scenario("task: {name: standard}\nmethod: kd\n" + _TEACHER + _STUDENT),
    "cross_task": Scenario(
        "task: {name: cross_task, teacher_classes: [ant, bee, cat, dog], student_classes: [cat, dog, eel, fly]}\n"
        "method: refilled\n" + _TEACHER + _STUDENT
    ),
    "spots": Scenario("task: {name: standard}\nmethod: sakd\n" + _TEACHER + _STUDENT),
    "podnet": Scenario("method: podnet\n" + _STEPS),
    "der": Scenario("method: der\n" + _STEPS),
    "icarl": Scenario("method: icarl\n" + _STEPS),
    "few_shot": Scenario(
        "task: {name: few_shot, base: 5, novel: 3, episodes: "
        "{ways: 3, shots: [1], queries: 1, count: 8, validation: 4, classifiers: [nearest-mean]}}\n"
        "method: refilled_joint\n" + _TEACHER + _STUDENT
    ),
    "middle_shot": Scenario(
        "task: {name: middle_shot, base: 4, novel: 4, ways: 3, shots: 5, most_shots: 5, queries: 4, tasks: 2}\n"
        "method: sp\n" + _TEACHER + "student: {network: resnet8, pretrain: {epochs: 1, batch_size: 16}}\n"
    ),
    "compare": Scenario(
        "task: {name: standard}\nmethod: kd\n"
        + _TEACHER
        + _STUDENT
        + "compare: {methods: [student, kd], seeds: [0, 1]}\n",
        verb="compare",
    ),
}  # fmt: skip


def images() -> bytes:
    """A zip of 8-pixel images, each class a pattern of its own under noise; the same bytes each time."""
    generator = np.random.default_rng(0)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in CLASSES:
            pattern = generator.integers(0, 160, (8, 8))
            for split, count in (("train", 14), ("test", 5)):
                for number in range(count):
                    file = io.BytesIO()
                    noisy = pattern + generator.integers(0, 96, (8, 8))
                    Image.fromarray(noisy.astype(np.uint8)).save(file, "png")
                    place = zipfile.ZipInfo(f"{split}/{name}/{number:02}.png", (1980, 1, 1, 0, 0, 0))
                    archive.writestr(place, file.getvalue())
    return content.getvalue()
