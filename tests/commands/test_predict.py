"""One image at a time: support folders, classifiers, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from gkd.commands.choices import RECOGNISERS
from gkd.commands.predict import recognise, recognise_known
from gkd.config.load import load
from gkd.core.errors import UserError
from gkd.core.text import for_csv
from gkd.data import load_images
from gkd.experiment.prepare import prepare
from gkd.models.load import load_network
from gkd.storage.run_files import CORRECT, unpack
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import read_weights, save_weights
from gkd.training.predictions import predict
from tests.cli_helpers import PHOTOS, gkd, write_photos
from tests.network_helpers import load_tensors
from tests.refusals import refused

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
    load_tensors(prepared.student, tensors, "", run)
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


def stored(path: Path, out: Path, orientation: int) -> Path:
    """An upright image as a phone stores it that was held so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.open(path).transpose(turn[orientation]).save(out, exif=exif)
    return out


def test_answers_stay_when_photographs_are_stored_as_phones_store_them(
    run: Path, support: Path, tmp_path: Path
) -> None:
    """Queries and support images, by a run's folder and by its weight file."""
    upright = [draw(tmp_path / "up" / f"{digit}-{n}.png", digit, n) for digit in range(5) for n in range(3)]
    phone = [stored(path, tmp_path / "phone" / path.name, (3, 6, 8)[n % 3]) for n, path in enumerate(upright)]
    turned = [
        stored(path, tmp_path / "turned" / path.parent.name / path.name, 6) for path in support.rglob("*.png")
    ]
    guesses = {}
    for name, images, folder in (("upright", upright, support), ("phone", phone, turned[0].parents[1])):
        for model in (run, run / "student.safetensors"):
            guesses[name, model.name] = [
                [(answer.name, answer.confidence) for answer in recognise_known(model, images)],
                [(answer.name, answer.confidence) for answer in recognise(model, folder, images)],
            ]
    for model in (run.name, "student.safetensors"):
        assert guesses["upright", model] == guesses["phone", model]
    # The data of this run are arrays, so that its config cannot say ignore.
    with refused("invalid-config"):
        recognise_known(run, phone, overrides=["data.exif=ignore"])


def test_a_run_of_photographs_from_before_any_was_turned_is_given_upright_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is told otherwise; its own test images stay as they were."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos.zip")
    assert gkd(*PHOTOS, "method=student") == 0
    (summary,) = Path("runs").rglob("summary.json")
    content = json.loads(summary.read_text())
    del content["manifest"]
    summary.write_text(json.dumps(content))
    config = summary.with_name("config.yaml")
    lines = config.read_text().splitlines(keepends=True)
    former = [line for line in lines if not line.strip().startswith("exif:")]
    assert len(former) < len(lines)
    config.write_text("".join(former))
    with zipfile.ZipFile("photos.zip") as archive:
        archive.extract("test/cat/0.png")
    upright = Path("test/cat/0.png")
    phone = stored(upright, Path("phone.png"), 6)
    (expected,), (turned,) = (recognise_known(summary.parent, [image]) for image in (upright, phone))
    assert turned.guesses == expected.guesses
    (as_it_is,) = recognise_known(summary.parent, [phone], overrides=["data.exif=ignore"])
    assert as_it_is.guesses != expected.guesses


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
    for split in ("train", "test"):
        draw(tmp_path / "splits" / split / "a" / "0.png", 7, 1)
    (tmp_path / "text.png").write_text("no image")
    cases = [
        ((str(run), "--support", str(tmp_path / "one"), image), "holds 1 class folders"),
        (
            (str(run), "--support", str(tmp_path / "splits"), image),
            "holds the splits test, train of a data set",
        ),
        ((str(run), "--support", str(tmp_path / "none"), image), "none does not exist; name a folder or zip"),
        ((str(tmp_path), "--support", str(support), image), "is no folder of a finished run"),
        ((str(run), "--support", str(support), str(tmp_path / "none.png")), "There is no image or folder"),
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
        ("cross_task/digits", "method=protonet", f"method.stages.episodes.episodes={EPISODES}"),
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
    assert recognise_known(path.with_name("student.safetensors"), images) == answers
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


def test_a_folder_a_zip_and_the_files_have_the_same_answers_and_so_has_the_weight_file(
    run: Path, tmp_path: Path
) -> None:
    """Of a run that is judged by its head: the file answers as the run does."""
    files = [
        draw(tmp_path / "photos" / name, digit, 30)
        for digit, name in enumerate(("a.png", "b/c.png", "d.png"))
    ]
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(tmp_path / "photos"))
    answers = recognise_known(run, files, top=3)
    assert [answer.image for answer in answers] == files
    for asked in ([tmp_path / "photos"], [files[0], tmp_path / "photos" / "b", files[2]]):
        assert recognise_known(run, asked, top=3) == answers
    zipped = recognise_known(run, [tmp_path / "photos.zip"], top=3)
    assert [answer.guesses for answer in zipped] == [answer.guesses for answer in answers]
    assert zipped[1].image == tmp_path / "photos.zip" / "b" / "c.png"
    best, copy = run / "student-best.safetensors", tmp_path / "mine.safetensors"
    copy.write_bytes(best.read_bytes())
    for ours, theirs in zip(
        recognise_known(copy, files, top=5), recognise_known(run, files, weights="best", top=5), strict=True
    ):
        assert [guess.name for guess in ours.guesses] == [guess.name for guess in theirs.guesses]
        assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-5)


def test_links_out_of_a_folder_are_followed_where_they_are_asked_for(run: Path, tmp_path: Path) -> None:
    """Of a run and of a weight file alike, by the words of the refusal."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "link.png").symlink_to(draw(tmp_path / "elsewhere.png", 3, 30))
    for which in (run, run / "student.safetensors"):
        with pytest.raises(UserError, match=r"take such links with data\.follow_links=true"):
            recognise_known(which, [tmp_path / "photos"])
        (answer,) = recognise_known(which, [tmp_path / "photos"], overrides=["data.follow_links=true"])
        assert answer.guesses == recognise_known(which, [tmp_path / "elsewhere.png"])[0].guesses
    for name in ("three", "four"):
        draw(tmp_path / "support" / name / "1.png", 3 + (name == "four"), 30)
    with pytest.raises(UserError, match=r"take such links with data\.follow_links=true"):
        recognise(run, tmp_path / "support", [tmp_path / "photos"])


def test_the_top_classes_are_the_likeliest_in_order(run: Path, support: Path, tmp_path: Path) -> None:
    image = draw(tmp_path / "seven.png", 7, 40)
    for ask in (recognise_known, partial(recognise, support=support)):
        (answer,) = ask(run, images=[image], top=100)  # more than there are: all
        values = [guess.confidence for guess in answer.guesses]
        assert (
            len({guess.name for guess in answer.guesses})
            == len(values)
            == (5 if ask is recognise_known else 3)
        )
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)
        (two,) = ask(run, images=[image], top=2)
        assert two.guesses == answer.guesses[:2]
        assert (two.name, two.confidence) == (answer.guesses[0].name, values[0])


def strictly(text: str) -> Any:
    """JSON as the standard has it: no NaN."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


def test_csv_and_json_hold_the_same_answers_whatever_the_names_are(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    nasty = [draw(tmp_path / name, 3, 30) for name in ('a,"b".png', "[red]:smile:.png", "line\nbreak.png")]
    answers = recognise_known(run, nasty, top=2)
    call = ("predict", str(run), *map(str, nasty), "--top", "2", "--format")
    assert gkd(*call, "json") == 0
    found = strictly(capsys.readouterr().out)
    assert [each["image"] for each in found] == [str(path) for path in nasty]
    for each, answer in zip(found, answers, strict=True):
        assert [guess["class"] for guess in each["classes"]] == [guess.name for guess in answer.guesses]
        assert each["classes"][0]["confidence"] == pytest.approx(answer.confidence, abs=1e-5)
    assert gkd(*call, "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["rank"] for row in rows] == ["1", "2"] * 3
    assert [row["class"] for row in rows] == [guess.name for answer in answers for guess in answer.guesses]
    assert float(rows[0]["confidence"]) == pytest.approx(answers[0].confidence, abs=1e-5)
    assert [row["image"] for row in rows[::2]] == [str(for_csv(str(path))) for path in nasty]
    assert rows[0]["image"] == str(nasty[0])
    assert gkd(*call, "text") == 0
    first, second = answers[0].guesses
    line = capsys.readouterr().out.splitlines()[0]
    assert (
        line == f"{nasty[0]}: {first.name} ({first.confidence:.1%}), {second.name} ({second.confidence:.1%})"
    )


def test_a_weight_file_of_a_run_that_was_judged_otherwise_says_so(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    image = str(draw(tmp_path / "seven.png", 3, 40))
    tensors, header = read_weights(run / "student.safetensors")
    assert gkd("predict", str(run / "student.safetensors"), image) == 0
    assert "note" not in capsys.readouterr().err
    header["preprocessing"] = header["preprocessing"].replace(
        '"answers": "head"', '"answers": "nearest class mean"'
    )
    save_weights(tmp_path / "means.safetensors", tensors, header)
    assert gkd("predict", str(tmp_path / "means.safetensors"), image, "--format", "json") == 0
    said = capsys.readouterr()
    assert "was judged by the nearest class mean" in said.err
    assert len(strictly(said.out)) == 1
    del header["preprocessing"]
    save_weights(tmp_path / "old.safetensors", tensors, header)
    with refused("fit-missing"):
        recognise_known(tmp_path / "old.safetensors", [Path(image)])
    assert gkd("predict", str(tmp_path / "old.safetensors"), image, "data.fit=stretch") == 0


def test_an_answer_that_is_no_number_is_refused(run: Path, support: Path, tmp_path: Path) -> None:
    """Of weights that are none, of finite ones whose logits are not, and of distances that no float holds."""
    file, image = tmp_path / "odd.safetensors", draw(tmp_path / "seven.png", 3, 40)
    for name, value, code in (
        ("fc.bias", float("nan"), "weights-not-finite"),
        ("fc.weight", 3e38, "outputs-not-finite"),
        ("layer3.0.bn2.bias", 1e25, "answer-not-finite"),
    ):
        tensors, header = read_weights(run / "student.safetensors")
        tensors[name][:] = value
        save_weights(file, tensors, header)
        with refused(code):
            if code == "answer-not-finite":
                recognise(file, support, [image], classifier="nearest-mean")
            else:
                recognise_known(file, [image])


def test_top_is_a_number_of_one_or_more(capsys: Any) -> None:
    for text in ("0", "-1", "two", "1.5", "9" * 5000):
        assert gkd("predict", "runs/a", "a.png", f"--top={text}") == 2
        assert "is no number of 1 or more" in capsys.readouterr().err


def test_a_network_of_oblong_images_is_given_oblong_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs of one size keep it, whether the run or its weight file answers."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for number in range(6):
                path = Path("photos", split, name, f"{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 255, (9, 17, 3), dtype=np.uint8)).save(path)
    words = [word for word in PHOTOS if not word.startswith("data.root")]
    assert gkd(*words, "data.root=photos", "method=student") == 0
    (summary,) = Path("runs").rglob("summary.json")
    images = sorted(Path("photos/test").rglob("*.png"))
    loaded = load_network(summary.with_name("student.safetensors"))
    assert loaded.metadata.image_shape == (3, 9, 17)
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(image)) for image in images]))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (loaded.metadata.mean, loaded.metadata.std))
    with torch.no_grad():
        chances = loaded.network.eval()((pixels.permute(0, 3, 1, 2) / 255 - mean) / std).softmax(1)
    for asked in (summary.parent, summary.with_name("student.safetensors")):
        answers = recognise_known(asked, images)
        assert [answer.confidence for answer in answers] == pytest.approx(
            chances.max(1).values.tolist(), abs=1e-4
        )
        assert [answer.name for answer in answers] == [("cat", "dog")[column] for column in chances.argmax(1)]
