"""Every example runs as it stands."""

import runpy
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import ExifTags, Image

from gkd.commands.export import export_student, load_student
from gkd.commands.predict import recognise_known
from gkd.storage.preprocessing import Preprocessing
from tests.cli_helpers import gkd
from tests.processes import Child, python_file

FOLDER = Path(__file__).parent.parent / "examples"
OF_FILES = ("onnx_from_jpeg.py",)  # whose arguments are files; below
SLOW = ("few_shot.py", "few_shot_judging.py", "incremental.py")
EXAMPLES = [
    pytest.param(path, marks=pytest.mark.full if path.name in SLOW else (), id=path.stem)
    for path in sorted(FOLDER.glob("*.py"))
    if path.name not in OF_FILES
]


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    example = Child(python_file, str(path), cwd=tmp_path)
    out, errors = example.communicate()
    assert example.returncode == 0, errors
    assert "%" in out


def test_an_onnx_file_and_a_jpeg_are_enough(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each class and its probability are those of ``gkd predict``; neither gkd nor torch can be imported."""
    monkeypatch.chdir(photos)
    words = ("task.teacher_classes=null", "student.network=resnet8", "run.epochs=1", "run.threads=1")
    data = ("data.root=photos", "data.batch_size=4", "data.image_size=16", "data.fit=crop")
    assert gkd("run", "cross_task/photos", "method=student", *data, *words) == 0
    (run,) = (path.parent for path in Path("runs").rglob("summary.json"))
    student = load_student(run)
    model, _ = export_student(student, "onnx")
    images = sorted(Path("photos/test").rglob("*.jpg"))
    other = ["data.fit=stretch", "data.exif=ignore"]
    expected = {
        "crop": recognise_known(run, images), "stretch": recognise_known(run, images, overrides=other)
    }  # fmt: skip
    stretched = student.metadata.described(Preprocessing("stretch", "ignore"), inside=True)
    for package in ("torch", "gkd", "gkd.commands", "gkd.storage"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys, "argv", ["onnx_from_jpeg.py", str(model)])
    with pytest.raises(SystemExit, match=r"PHOTO\.jpg"):
        runpy.run_path(str(FOLDER / "onnx_from_jpeg.py"), run_name="__main__")
    for fit, answers in expected.items():
        if fit == "stretch":  # the program is the same; what it says of its images is another
            program = onnx.load(model)
            next(entry for entry in program.metadata_props if entry.key == "preprocessing").value = stretched
            onnx.save(program, model)
        for image, answer in zip(images, answers, strict=True):
            monkeypatch.setattr(sys, "argv", ["onnx_from_jpeg.py", str(model), str(image)])
            capsys.readouterr()
            chances = runpy.run_path(str(FOLDER / "onnx_from_jpeg.py"), run_name="__main__")["chances"]
            assert max(chances, key=chances.get) == answer.name
            assert chances[answer.name] == pytest.approx(answer.confidence, abs=1e-4)
            assert capsys.readouterr().out == f"{image}: {answer.name} ({chances[answer.name]:.1%})\n"
    differing = [
        a.confidence != b.confidence for a, b in zip(expected["crop"], expected["stretch"], strict=True)
    ]
    assert all(differing)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of wide and high JPEGs, of which half are bright on one side: a fit changes what is seen."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split in ("train", "test"):
        for channel, name in enumerate(("cat", "dog")):
            (folder / "photos" / split / name).mkdir(parents=True)
            for number in range(5):
                height, width = (33, 57) if number % 2 else (57, 33)
                pixels = generator.integers(0, 90, (height, width, 3), dtype=np.uint8)
                pixels[:, : width // 3, channel] += 160
                exif = Image.Exif()
                exif[ExifTags.Base.Orientation] = number + 4  # upside down, mirrored, turned, and two of them
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{number}.jpg", exif=exif)
    return folder
