"""What the data section makes of a run: streamed images, views for the teacher, mixup, balanced batches."""

import pickle
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch

from gkd.config.load import load
from gkd.models import build_network
from gkd.storage.weights import read_weights
from tests.cli_helpers import PHOTOS, gkd, start, summary_of, write_photos
from tests.refusals import refused


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos.zip")
    return tmp_path / "photos.zip"


def test_streamed_images_train_the_same_bits(capsys, tmp_path):
    assert gkd(*PHOTOS, "run.out=memory") == 0
    assert "15 training images of 3x8x8 in memory" in capsys.readouterr().out
    assert gkd(*PHOTOS, "run.out=stream", "data.memory_gb=0", "data.workers=2") == 0
    assert "15 training images of 3x8x8, streamed from photos.zip by 2 workers" in capsys.readouterr().out
    runs = [summary_of(tmp_path / name) for name in ("memory", "stream")]
    assert runs[0]["last"] == runs[1]["last"]
    assert runs[0]["teacher"]["hash"] == runs[1]["teacher"]["hash"]
    a, b = (read_weights(run["folder"] / "student.safetensors")[0] for run in runs)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_photographs_that_are_left_out_are_told_in_a_line(tmp_path: Path) -> None:
    with zipfile.ZipFile("photos.zip", "a") as archive:
        archive.writestr("train/cat/phone.heic", b"")
    process = start("validate", *PHOTOS[1:], cwd=tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    (line,) = errors.splitlines()
    assert line.startswith("gkd: warning: photos.zip has photographs that are left out")


@pytest.mark.full
def test_a_killed_streamed_run_ends_with_the_same_bits(tmp_path):
    """Mixtures come from the run's generator, which decoding workers must not touch."""
    words = [*PHOTOS, "method=kd", "data.augment=crop-flip+mixup", "data.memory_gb=0", "data.batch_size=4"]
    words += ["run.epochs=40", "run.checkpoint_seconds=0"]
    weights = []
    for name, workers in (("whole", 2), ("killed", 0)):
        run = start(*words, f"run.out={name}", f"data.workers={workers}", cwd=tmp_path)
        deadline = time.monotonic() + 120
        while name == "killed" and time.monotonic() < deadline:
            logs = [path.read_text() for path in (tmp_path / name).rglob("kd*/seed0/metrics.jsonl")]
            if logs and logs[0].count("\n") >= 5:
                run.kill()
                break
            time.sleep(0.01)
        run.communicate(timeout=180)
        if name == "killed":
            assert run.returncode == -signal.SIGKILL
            run = start(*words, f"run.out={name}", "data.workers=1", cwd=tmp_path)
            run.communicate(timeout=180)
        assert run.returncode == 0
        (path,) = (tmp_path / name / "cross_task").rglob("student.safetensors")
        weights.append(read_weights(path)[0])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_eight_decoding_workers_are_the_same_run(tmp_path):
    words = ("data.memory_gb=0", "data.workers=")
    assert (
        load("cross_task/photos", [words[0], words[1] + "8"]).identity
        == load("cross_task/photos", words[:1]).identity
    )
    assert load("cross_task/photos", words[:1]).identity != load("cross_task/photos").identity


@pytest.mark.parametrize("more", [(), ("data.views=2",), ("data.memory_gb=0", "data.workers=0")])
@pytest.mark.parametrize("method", ["sp", "kd", "refilled"])
def test_the_teacher_sees_a_larger_clean_grey_view(method, more, tmp_path):
    view = "data.teacher_view={image_size: 16, channels: 1, augment: none}"
    assert gkd(*PHOTOS, "run.out=out", f"method={method}", view, "data.image_size=8", *more) == 0
    summary = summary_of(tmp_path / "out")
    (teacher,) = (tmp_path / "out" / "teachers").rglob("student.safetensors")
    assert read_weights(teacher)[0]["conv1.weight"].shape[1] == 1  # it was trained on what it sees
    assert read_weights(summary["folder"] / "student.safetensors")[0]["conv1.weight"].shape[1] == 3
    assert summary["teacher"]["accuracy"] is not None


def test_a_term_that_says_its_samples_keeps_them():
    words = ["method=crd", "data.augment=crop-flip+mixup", "method.stages.distil.terms.crd.samples=clean"]
    (stage,) = load("cross_task/photos", words).experiment.method.stages.values()
    assert {name: term.samples for name, term in stage.terms.items()} == {
        "cross_entropy": "virtual",
        "crd": "clean",
    }
    assert load("cross_task/photos", ["method=mixup", "data.augment=crop-flip+mixup"])  # the same mixtures


def test_what_the_teacher_sees_decides_what_the_student_learns(tmp_path):
    found = set()
    for view in ("null", "{augment: none}", "{draws: own}", "{augment: flip}"):
        assert gkd(*PHOTOS, f"run.out=out{len(found)}", f"data.teacher_view={view}") == 0
        weights, _ = read_weights(summary_of(tmp_path / f"out{len(found)}")["folder"] / "student.safetensors")
        found.add(weights["conv1.weight"].numpy().tobytes())
    assert len(found) == 4


def test_a_mixed_augmentation_makes_every_term_virtual(tmp_path):
    words = ("method=kd", "data.augment=crop-flip+mixup(alpha=0.2)", "run.out=out")
    resolved = load("cross_task/photos", words)
    (stage,) = resolved.experiment.method.stages.values()
    assert (stage.mixup.alpha, stage.mixup.images) == (0.2, 2)
    assert {term.samples for term in stage.terms.values()} == {"virtual"}
    assert load("cross_task/photos", ["method=kd"]).identity != resolved.identity
    assert gkd(*PHOTOS, *words) == 0
    (path,) = (tmp_path / "out").rglob("kd*/seed0/config.yaml")
    assert load(path).identity == load("cross_task/photos", [*PHOTOS[2:], *words]).identity


@pytest.mark.parametrize(
    ("method", "augment", "code"),
    [
        ("refilled", "crop-flip+mixup", "invalid-config"),
        ("kd", "crop-flip+mixup(beta=2)", "invalid-config"),
        ("kd", "crop-flip+mixup(alpha=0)", "invalid-config"),
        ("kd", "mixup+crop-flip", "invalid-config"),
        ("mixup", "crop-flip+mixup(alpha=0.1)", "mixup-twice"),
        ("crd", "crop-flip+mixup", "invalid-config"),
        ("kd", "crop-flop", "invalid-config"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(method, augment, code):
    with refused(code):
        load("cross_task/photos", [f"method={method}", f"data.augment={augment}"])


def test_a_crop_needs_a_size_and_files(capsys):
    assert gkd(*PHOTOS, "data.fit=crop") == 2
    assert "fit: crop needs the image_size to crop to" in capsys.readouterr().err
    assert gkd("run", "cross_task/digits", "data.fit=crop", "data.image_size=8") == 2
    assert "fit=crop is for image files; digits comes as arrays" in capsys.readouterr().err
    assert gkd(*PHOTOS, "data.image_size=16", "data.fit=crop", "method=student") == 0


def test_balanced_batches_by_the_data_section(capsys):
    assert gkd(*PHOTOS, "data.images_per_class=2", "method=refilled") == 0
    assert gkd(*PHOTOS, "data.images_per_class=4", "method=refilled") == 2
    assert "divides the batch size" in capsys.readouterr().err
    assert not list(Path("runs").rglob("*images_per_class=4*"))  # before the teacher is trained


@pytest.fixture
def two_sources(tmp_path) -> tuple[str, ...]:
    """A teacher's images of 12 pixels in grey, a student's of 8 in colour."""
    write_photos(tmp_path / "others.zip", seed=1)
    return (
        *PHOTOS,
        "teacher.data={name: folder, root: others.zip, image_size: 12, channels: 1, batch_size: 6}",
    )


@pytest.mark.parametrize(
    ("view", "sentence"),
    [
        (
            "null",
            "have 1 channels and the student's, as it would see them, 3; set data.teacher_view.channels=1",
        ),
        ("{image_size: 12}", "set data.teacher_view.channels=1"),
    ],
)
def test_a_teacher_of_other_images_needs_to_know_what_it_sees(two_sources, view, sentence, capsys):
    assert gkd(*two_sources, f"data.teacher_view={view}") == 2
    assert sentence in capsys.readouterr().err


def test_sizes_are_adapted_only_where_the_experiment_says_how(two_sources, capsys, tmp_path):
    words = [word.replace(", channels: 1", "") for word in two_sources]
    assert gkd(*words) == 2
    assert (
        "are 12×12 and the student's 8×8: say what the teacher sees: data.teacher_view.image_size=12, or 8"
        in (capsys.readouterr().err)
    )
    for view in ("{image_size: 8}", "{image_size: 12}"):
        assert gkd(*words, f"data.teacher_view={view}") == 0
    assert gkd(*two_sources, "data.teacher_view={image_size: 12, channels: 1}") == 0


def test_weights_that_are_not_finite_are_refused(capsys, tmp_path):
    state = build_network("resnet8", num_classes=3).state_dict()
    state["fc.bias"][1] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    assert gkd(*PHOTOS, "teacher.checkpoint=nan.pth") == 2
    assert "holds values that are not finite in 'fc.bias'" in capsys.readouterr().err


def test_a_grid_names_the_row_that_cannot_be(capsys):
    words = ["data.root=photos.zip", "compare.methods=[student, crd]", "data.augment=crop-flip+mixup"]
    assert gkd("compare", "cross_task/photos", *words) == 2
    assert "Row 'crd': " in capsys.readouterr().err


def test_an_option_without_its_space_is_refused():
    with refused("invalid-config"):
        load(
            "cross_task/photos",
            ["student.network=timm/vit_tiny_patch16_224", "student.options={img_size:32}"],
        )


def test_a_pickle_of_something_else_is_a_sentence(capsys, tmp_path, recwarn):
    (tmp_path / "list.pth").write_bytes(pickle.dumps([1, 2], protocol=4))
    assert gkd(*PHOTOS, "teacher.checkpoint=list.pth") == 2
    assert "cannot be read as plain weights" in capsys.readouterr().err
    assert not recwarn.list
