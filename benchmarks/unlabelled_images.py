"""Write a zip of images without labels: of each class of a grid's student some that the grid does not train on.

The labelled images of a few-labels grid are a subset of what the data set has; this takes others of the same classes,
shuffles them, and gives them names that tell nothing. No image of the labelled subset, the validation split or the test
split is among them. The same arguments give the same bytes.

    python benchmarks/unlabelled_images.py cross_task/unlabelled --per-class 400 --out unlabelled.zip
"""

from __future__ import annotations

import argparse
import random
import zipfile
from contextlib import closing
from pathlib import Path, PurePosixPath

from gkd.config.load import load
from gkd.data.image_files import open_source
from gkd.experiment.sides import sides_of

WRITTEN = (1980, 1, 1, 0, 0, 0)  # the time of every entry, so that no clock gets into the file


def files_without_labels(config: str, per_class: int, overrides: list[str]) -> tuple[Path, list[str]]:
    """The data set's root, and of each class the first files in it that are neither labelled nor held out.

    Args:
        config: a grid's name or file; ``data.unlabelled`` is not read.
        per_class: how many of each class.
        overrides: of the config, such as ``data.root=FILE``.

    Raises:
        SystemExit: a class with fewer.
    """
    experiment = load(config, ["method=student", *overrides]).experiment
    sides = sides_of(experiment)
    labelled = sides.first_problem().student.train
    pool = sides.student.train.restrict(labelled.space)
    taken = set(labelled.files or ())
    chosen: list[str] = []
    for column, name in enumerate(pool.space):
        files = [
            file
            for file, label in zip(pool.files or (), pool.labels.tolist(), strict=True)
            if label == column
        ]
        left = [file for file in files if file not in taken]
        if len(left) < per_class:
            raise SystemExit(
                f"{name} has {len(left)} images beside the labelled ones; take --per-class {len(left)}."
            )
        chosen += left[:per_class]
    assert experiment.data.root is not None
    return experiment.data.root, chosen


def write_zip(root: Path, files: list[str], out: Path) -> None:
    """Copy the files of a directory or zip, in an order and under names that say nothing of their classes."""
    shuffled = files.copy()
    random.Random(0).shuffle(shuffled)
    with closing(open_source(root)) as source, zipfile.ZipFile(out, "w") as archive:
        for number, file in enumerate(shuffled):
            entry = zipfile.ZipInfo(f"{number:06d}{PurePosixPath(file).suffix}", WRITTEN)
            archive.writestr(entry, source.read(file))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c")
    parser.add_argument("--per-class", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    root, files = files_without_labels(given.config, given.per_class, given.overrides)
    write_zip(root, files, given.out)
    print(f"{given.out}: {len(files)} images")


if __name__ == "__main__":
    main()
