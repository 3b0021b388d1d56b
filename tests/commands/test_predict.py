"""One image at a time: support folders, classifiers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from gkd.commands.choices import RECOGNISERS
from gkd.commands.predict import recognise, recognise_known
from gkd.config.load import load
from gkd.data import load_images
from gkd.experiment.prepare import prepare
from gkd.storage.run_files import CORRECT, unpack
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import load_weights, read_weights
from gkd.training.predictions import predict
from tests.cli_helpers import gkd

EPISODES = "{ways: 3, shots: 1, queries: 3, per_epoch: 3}"
COUNTS = {6: 3, 7: 5, 9: 2}  # digits that the student has never seen: support images of each
WORDS = ("method=student", "run.epochs=2", "run.threads=1", "task.episodes.count=20")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished few-shot run whose student knows the digits 0 to 4."""
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert gkd("run", "few_shot/digits", *WORDS) == 0
    return next(folder.glob("runs/few_shot/digits/*/seed0"))


DIGITS = load_images("digits", "test")


def draw(path: Path, digit: int, number: int) -> Path:
    """A test image of a digit as a file."""
    pixels = DIGITS.images[torch.nonzero(DIGITS.labels == digit)[number, 0]]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[0].numpy()).save(path)
    return path


@pytest.fixture
def support(tmp_path: Path) -> Path:
    """A folder a digit."""
    for digit, count in COUNTS.items():
        for number in range(count):
            draw(tmp_path / "support" / f"d{digit}" / f"{number}.png", digit, number)
    return tmp_path / "support"


@pytest.mark.parametrize("classifier", RECOGNISERS)
def test_answers_are_those_of_the_students_embedding(
    run: Path, support: Path, tmp_path: Path, classifier: str
) -> None:
    """As embedded by the run's own evaluation, from the data set's pixels instead of files."""
    prepared = prepare(load(run / "config.yaml", from_run=True))
    tensors, _ = read_weights(run / "student.safetensors")
    load_weights(prepared.student, tensors, name="", path=run)
    _, rows = predict(prepared.student, DIGITS, prepared.settings)
    places = {digit: torch.nonzero(DIGITS.labels == digit).flatten() for digit in COUNTS}
    known = {digit: rows[places[digit][:count]] for digit, count in COUNTS.items()}
    asked = [(digit, number) for digit in COUNTS for number in range(20, 26)]
    files = [draw(tmp_path / f"{digit}-{number}.png", digit, number) for digit, number in asked]
    answers = recognise(run, support, files, classifier=classifier)
    assert [answer.image for answer in answers] == files
    assert all(1 / 3 <= answer.confidence <= 1 for answer in answers)
    for (digit, number), answer in zip(asked, answers, strict=True):
        row = rows[places[digit][number]]
        if classifier == "logistic":
            truth = [digit for digit, of_digit in known.items() for _ in of_digit]
            model = LogisticRegression(max_iter=1000).fit(F.normalize(torch.cat(list(known.values()))), truth)
            (expected,) = model.predict(F.normalize(row[None]))
        elif classifier == "cosine":
            expected = max(known, key=lambda name: row @ F.normalize(F.normalize(known[name]).mean(0), dim=0))
        else:
            expected = min(known, key=lambda name: (row - known[name].mean(0)).norm())
        assert answer.name == f"d{expected}"


def test_a_support_image_is_its_class(run: Path, support: Path) -> None:
    for own in ("d6/0.png", "d9/1.png"):
        (answer,) = recognise(run, support, [support / own], classifier="nearest-mean")
        assert answer.name == own[:2]


def test_the_verb_prints_class_and_confidence(run: Path, support: Path, tmp_path: Path, capsys: Any) -> None:
    image = str(draw(tmp_path / "seven.png", 7, 40))
    assert gkd("predict", str(run), "--support", str(support), image) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{image}: d")
    assert printed.rstrip().endswith("%)")


def test_bad_input_is_one_sentence(run: Path, support: Path, tmp_path: Path, capsys: Any) -> None:
    image = str(draw(tmp_path / "seven.png", 7, 40))
    (tmp_path / "one" / "only").mkdir(parents=True)
    draw(tmp_path / "one" / "only" / "a.png", 7, 1)
    (tmp_path / "text.png").write_text("no image")
    cases = [
        ((str(run), "--support", str(tmp_path / "one"), image), "holds 1 class folders"),
        ((str(run), "--support", str(tmp_path / "none"), image), "There is no file or folder"),
        ((str(tmp_path), "--support", str(support), image), "is no folder of a finished run"),
        ((str(run), "--support", str(support), str(tmp_path / "none.png")), "does not exist"),
        ((str(run), "--support", str(support), str(tmp_path / "text.png")), "cannot be decoded"),
    ]
    for words, sentence in cases:
        assert gkd("predict", *words) == 2
        told = capsys.readouterr().err
        assert sentence in told
        assert told.count("\n") == 1
    (support / "empty").mkdir()
    assert gkd("predict", str(run), "--support", str(support), image) == 2
    assert "an empty class 'empty'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("incremental/digits", "method=icarl", "task.order=3", "task.increment=5"),
        ("incremental/digits", "method=replay", "task.order=3", "task.increment=5"),
        ("quickstart", "method=protonet", f"method.stages.episodes.episodes={EPISODES}"),
    ],
    ids=["exemplar-means", "head", "class-means"],
)  # fmt: skip
def test_among_its_own_classes_a_run_answers_as_it_was_judged(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gkd("run", *words, "run.epochs=2", "run.threads=1") == 0
    (path,) = Path("runs").rglob(CORRECT)
    prepared = prepare(
        load(path.with_name("config.yaml"), ["teacher=null", "method=student"], from_run=True), final=True
    )
    test = prepared.problem.student.test
    correct = json.loads(path.read_text())
    right = unpack(correct["last"], correct["count"])
    names = [test.space.names[column] for column in test.labels[:40].tolist()]
    images = []
    for number, pixels in enumerate(test.images[:40]):
        images.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels[0].numpy()).save(images[-1])
    answers = recognise_known(path.parent, images)
    assert [answer.name == name for answer, name in zip(answers, names, strict=True)] == right[:40].tolist()
    assert all(0 < answer.confidence <= 1 for answer in answers)
    assert {answer.image for answer in answers} == set(images)
    written = WeightMetadata.read(path.with_name("student.safetensors")).preprocessing
    assert written is not None
    judged_by = json.loads(path.with_name("summary.json").read_text())["judged_by"]
    assert (written.fit, written.answers) == ("stretch", judged_by)
    capsys.readouterr()
    assert gkd("predict", str(path.parent), str(images[0])) == 0
    assert capsys.readouterr().out.startswith(f"{images[0]}: {answers[0].name} (")
    assert gkd("predict", str(path.parent), str(images[0]), "--classifier", "cosine") == 2
    assert "--classifier cosine is for new classes; add --support" in capsys.readouterr().err
    assert gkd("predict", str(path.parent.parent), str(images[0])) == 2
    assert "is no folder of a finished run" in capsys.readouterr().err
