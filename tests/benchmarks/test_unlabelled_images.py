"""benchmarks/unlabelled_images.py: images beside those that a grid trains, selects and tests on."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from tests.cli_helpers import write_folders

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def few_labels(tmp_path: Path) -> Path:
    """A grid of 3 labelled images of each of 2 of 3 classes, beside 2 for validation; each class has 10."""
    write_folders(tmp_path / "photos", {"ant": 10, "bee": 10, "cat": 10})
    config = tmp_path / "few.yaml"
    config.write_text(
        f"""
        task: {{name: cross_task, student_classes: [ant, cat]}}
        data:
          {{name: folder, root: {tmp_path}/photos, per_class: 3, subset_seed: 0, batch_size: 2,
            validation: {{per_class: 2, take: last}}}}
        student: {{network: resnet8}}
        method: student
        """
    )
    return config


def test_they_are_of_the_students_classes_and_neither_labelled_nor_held_out(script, few_labels, tmp_path):
    root, files = script.files_without_labels(str(few_labels), 4, [])
    assert root == tmp_path / "photos"
    assert len(set(files)) == 8
    assert {Path(file).parts[:2] for file in files} == {("train", "ant"), ("train", "cat")}
    sides = script.sides_of(script.load(few_labels).experiment)
    problem = sides.first_problem()
    kept_out = {*problem.student.train.files, *problem.student.validation.files}
    assert len(kept_out) == 10
    assert not kept_out & set(files)
    with pytest.raises(SystemExit, match="ant has 5 images beside the labelled ones"):
        script.files_without_labels(str(few_labels), 6, [])


def test_the_zip_tells_no_class_and_has_the_same_bytes_each_time(script, few_labels, tmp_path):
    root, files = script.files_without_labels(str(few_labels), 4, [])
    for name in ("once.zip", "again.zip"):
        script.write_zip(root, files, tmp_path / name)
    assert (tmp_path / "once.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "once.zip") as archive:
        names = archive.namelist()
        there = [hashlib.sha256(archive.read(name)).hexdigest() for name in names]
    assert names == [f"{number:06d}.png" for number in range(8)]
    in_order = [hashlib.sha256((root / file).read_bytes()).hexdigest() for file in files]
    assert sorted(there) == sorted(in_order)
    assert there != in_order
