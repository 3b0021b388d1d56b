"""One image at a time: support folders, classifiers, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from gkd.recognise import RECOGNISERS, recognise
from tests.cli_helpers import gkd

WORDS = ("method=student", "run.epochs=10", "run.threads=1", "task.episodes.count=20")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished few-shot run whose student knows the digits 0 to 4."""
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert gkd("run", "few_shot/digits", *WORDS) == 0
    return next(folder.glob("runs/few_shot/digits/*/seed0"))


def draw(path: Path, digit: int, number: int) -> Path:
    digits = load_digits()
    pixels = digits.images[np.flatnonzero(digits.target == digit)[number]] * 255 / 16
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def support(tmp_path: Path) -> Path:
    """Digits that the student has never seen, not equally many of each."""
    for digit, count in ((6, 12), (7, 20), (9, 16)):
        for number in range(count):
            draw(tmp_path / "support" / f"d{digit}" / f"{number}.png", digit, number)
    return tmp_path / "support"


@pytest.mark.parametrize("classifier", RECOGNISERS)
def test_new_digits_are_told_apart(run: Path, support: Path, tmp_path: Path, classifier: str) -> None:
    asked = [draw(tmp_path / f"{digit}-{i}.png", digit, 40 + i) for digit in (6, 7) for i in range(6)]
    answers = recognise(run, support, asked, classifier=classifier)
    assert [answer.image for answer in answers] == asked
    assert sum(answer.name == f"d{answer.image.name[0]}" for answer in answers) >= 8
    assert all(1 / 3 <= answer.confidence <= 1 for answer in answers)


def test_a_support_image_is_its_class(run: Path, support: Path) -> None:
    for own in ("d6/0.png", "d9/1.png"):
        (answer,) = recognise(run, support, [support / own], classifier="nearest-mean")
        assert answer.name == own[:2]


def test_the_verb_prints_class_and_confidence(run: Path, support: Path, tmp_path: Path, capsys: Any) -> None:
    image = str(draw(tmp_path / "seven.png", 7, 60))
    assert gkd("predict", str(run), "--support", str(support), image) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{image}: d")
    assert printed.rstrip().endswith("%)")


def test_bad_input_is_one_sentence(run: Path, support: Path, tmp_path: Path, capsys: Any) -> None:
    image = str(draw(tmp_path / "seven.png", 7, 60))
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
