"""gkd eval: any weight file, with or without what it says of itself."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gkd.cli.eval import _line
from gkd.models.load import load_network
from gkd.storage.judged import Judged
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import read_weights, save_weights
from tests.cli_helpers import PHOTOS, gkd, summary_of, write_photos
from tests.step_helpers import WORDS


def test_eval_takes_any_weight_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos.zip")
    assert gkd(*PHOTOS, "method=student", "run.out=out") == 0
    summary = summary_of(tmp_path / "out")
    file = summary["folder"] / "student.safetensors"
    capsys.readouterr()
    assert gkd("eval", str(file)) == 2
    assert "name them, as in data.name=folder data.root=IMAGES.zip" in capsys.readouterr().err
    data = ("data.name=folder", "data.root=photos.zip")
    assert gkd("eval", str(file), "data={name: folder, root: photos.zip}") == 0  # the section in one word
    in_one = capsys.readouterr().out
    assert gkd("eval", str(file), *data) == 0
    printed = capsys.readouterr().out
    assert in_one == printed
    assert "resnet8, 3 classes, 18 test images" in printed
    accuracy = summary["last"]["accuracy"]
    assert f"\naccuracy {accuracy:.4g}" in printed
    assert "top-5" not in printed  # of three classes
    for which, name in (("last", "confusion.csv"), ("best", "confusion-best.csv")):
        with (summary["folder"] / name).open(newline="") as opened:
            (_, *names), *rows = csv.reader(opened)
        assert names == [row[0] for row in rows] == ["cat", "dog", "owl"]
        counts = [[int(cell) for cell in row[1:]] for row in rows]
        assert list(map(sum, counts)) == [6, 6, 6]
        right = {name: round(100 * counts[i][i] / 6, 4) for i, name in enumerate(names)}
        assert summary[which]["accuracy_per_class"] == right
        assert summary[which]["accuracy"] == pytest.approx(sum(right.values()) / 3, abs=1e-3)
        assert "accuracy_top5" not in summary[which]
    # A spreadsheet may change a confusion matrix; the run stays finished.
    (summary["folder"] / "confusion.csv").unlink()
    assert gkd("eval", str(summary["folder"])) == 0
    assert f"last accuracy {accuracy:.4g}" in capsys.readouterr().out
    assert f"(the file says accuracy {accuracy:.4g})" in printed
    # Without metadata everything is to be said; the classes are the data's.
    bare = tmp_path / "bare.pth"
    torch.save({"model": read_weights(file)[0]}, bare)
    assert gkd("eval", str(bare), *data) == 2
    assert "student.network: this key is missing" in capsys.readouterr().err
    mean, std = (f"data.{key}=[{read_weights(file)[1][key]}]" for key in ("mean", "std"))
    assert gkd("eval", str(bare), *data, "student.network=resnet8", mean, std) == 0
    assert f"\naccuracy {accuracy:.4g}" in capsys.readouterr().out
    assert gkd("eval", str(bare), *data, "student.network=resnet14") == 2
    assert "holds another network than resnet14" in capsys.readouterr().err
    # Two sets of weights: the averaged ones are judged, which is said; a key chooses.
    weights = read_weights(file)[0]
    spoilt = {name: tensor * 0 for name, tensor in weights.items()}
    torch.save({"model": spoilt, "model_ema": {f"module.{n}": t for n, t in weights.items()}}, bare)
    words = ("eval", str(bare), *data, "student.network=resnet8", mean, std)
    assert gkd(*words) == 0
    printed = capsys.readouterr().out
    assert f"\naccuracy {accuracy:.4g}" in printed
    assert "takes model_ema.module, the averaged weights, and not model, which would fit too" in printed
    assert gkd(*words, "student.checkpoint_key=model") == 0
    assert "accuracy 33.33" in capsys.readouterr().out
    assert gkd(*words, "student.checkpoint_key=net") == 2
    assert "no weights under student.checkpoint_key=net; it has: model, model_ema" in capsys.readouterr().err


def test_eval_says_how_often_the_label_is_among_the_five_best() -> None:
    judged = Judged(accuracy=50.0, accuracy_top5=87.5, ece=1.5, nll=0.25)
    assert _line(judged) == "accuracy 50  top-5 87.5  ece 1.5  nll 0.25"


def test_a_file_whose_run_is_judged_by_class_means_answers_by_them(capsys, tmp_path, monkeypatch):
    """Of a standard task: the means of all training images travel in the file, of either student."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos.zip")
    assert gkd(*PHOTOS, "method=student", "method.judge=ncm", "run.out=out") == 0
    summary = summary_of(tmp_path / "out")
    for file, judged in (("student", summary["last"]), ("student-best", summary["best"])):
        capsys.readouterr()
        path = summary["folder"] / f"{file}.safetensors"
        assert gkd("eval", str(path), "data.name=folder", "data.root=photos.zip") == 0
        printed = capsys.readouterr().out
        assert "18 test images, by the nearest class mean in the file" in printed
        assert f"\naccuracy {judged['accuracy']:.4g}" in printed
        assert "ece" not in printed
        logits, embedding = outputs(path, tmp_path / "photos.zip")
        means = WeightMetadata.read(path).class_means
        right = 100 * ((embedding @ means.T).argmax(1) == LABELS).double().mean().item()
        assert right == pytest.approx(judged["accuracy"], abs=1e-3)
        assert not torch.equal((embedding @ means.T).argmax(1), logits.argmax(1))
    # Means of another embedding are none of this network's.
    tensors, header = read_weights(path)
    header |= WeightMetadata(class_means=means[:, :-1]).to_header()
    save_weights(tmp_path / "w.safetensors", tensors, header)
    assert gkd("eval", "w.safetensors", "data.name=folder", "data.root=photos.zip") == 0
    assert "the file does not hold them" in capsys.readouterr().out


LABELS = torch.arange(3).repeat_interleave(6)


def outputs(path, photos):
    """Logits and unit embeddings of the test photographs, class by class."""
    loaded = load_network(path)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (loaded.metadata.mean, loaded.metadata.std))
    with zipfile.ZipFile(photos) as archive:
        files = [f"test/{name}/{number}.png" for name in ("cat", "dog", "owl") for number in range(6)]
        pixels = [np.asarray(Image.open(archive.open(file))) for file in files]
    images = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        features = loaded.network.eval().features(images)
    return features.logits, torch.nn.functional.normalize(features.embedding, dim=1)


def test_eval_of_a_file_reads_photographs_as_it_was_trained(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos.zip")
    assert (
        gkd(
            *PHOTOS,
            "method=student",
            "run.out=out",
            "data.image_size=8",
            "data.fit=crop",
            "run.precision=float32",
        )
        == 0
    )
    folder = summary_of(tmp_path / "out")["folder"]
    capsys.readouterr()
    assert gkd("eval", str(folder)) == 0
    (expected,) = re.findall(r"^last +(.*)", capsys.readouterr().out, re.M)
    words = ("eval", str(folder / "student.safetensors"), "data.name=folder", "data.root=photos.zip")
    assert gkd(*words) == 0
    assert expected in capsys.readouterr().out
    assert gkd(*words, "data.fit=stretch") == 0
    assert expected not in capsys.readouterr().out
    assert (
        gkd("eval", str(folder / "student.safetensors"), "data.name=digits") == 2
    )  # arrays, which take no fit
    assert "fit" not in capsys.readouterr().err


def test_a_file_is_judged_as_the_task_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert gkd("run", *WORDS, "method=finetune", "task.base_epochs=3") == 0
    (path,) = Path("runs").rglob("matrix.json")
    summary, rows = (json.loads((path.parent / name).read_text()) for name in ("summary.json", "matrix.json"))
    capsys.readouterr()
    file = str(path.parent / "student.safetensors")
    data = ("data.name=digits", "data.validation={per_class: 20}")
    # The name last: an override that names another task drops what those before it gave the former one.
    assert gkd("eval", file, *data, "task.base=6", "task.increment=2", "task.name=incremental") == 0
    printed = capsys.readouterr().out
    assert "10 classes" in printed
    assert "judged as incremental" in printed
    accuracy = summary["last"]["accuracy"]
    assert f"\naccuracy {accuracy:.4g}" in printed
    last = rows["classifier"]["rows"][-1]
    for number, value in enumerate(last, 1):
        assert f"step-{number} {value:.4g}" in printed
    # The task's classes in another order than the file's columns: by name, not by number.
    assert gkd("eval", file, *data, f"task.classes={json.dumps([*'9876543210'])}") == 0
    assert f"\naccuracy {accuracy:.4g}" in capsys.readouterr().out
    assert gkd("eval", file, *data, f"task.classes={json.dumps([*'9876'])}") == 2
    assert "choose the task's to match" in capsys.readouterr().err
