"""Export: one file that gives the student's logits elsewhere, with its classes and normalisation in it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import gkd.commands.export
from gkd.commands.choices import FORMATS
from gkd.commands.export import export_student, load_student
from gkd.commands.predict import recognise_known
from gkd.models import build_network
from gkd.storage.preprocessing import EXEMPLAR_MEANS, Preprocessing
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import read_weights, save_weights
from tests import cli_helpers
from tests.refusals import refused

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
# One of each family: name, options, pixels. A new family is one more row.
NETWORKS = [
    ("resnet8", {}, 8),
    ("wrn_10_1", {}, 8),
    ("ResNet18", {}, 9),
    ("vgg8", {}, 16),
    ("MobileNetV2", {}, 17),
    ("ShuffleV1", {}, 16),
    ("ShuffleV2", {}, 16),
    ("mobilenet_0_25", {}, 33),
    ("conv4_32", {"image_size": 28}, 28),
    ("resnet12_narrow", {}, 16),
    ("torchvision/resnet18", {}, 32),
    ("timm/vit_tiny_patch16_224", VIT, 8),
]
IDS = [name for name, _, _ in NETWORKS]
MEAN, STD = (0.3,), (0.2,)


def saved(folder: Path, name: str = "resnet8", options: dict[str, Any] | None = None, size: int = 8) -> Path:
    """A weight file as a run leaves it, of a network whose BatchNorm statistics are not their defaults."""
    torch.manual_seed(0)
    network = build_network(name, num_classes=3, in_channels=1, **(options or {})).train()
    network(torch.randn(16, 1, size, size))
    metadata = {
        "network": name,
        "options": json.dumps(options or {}),
        "classes": '["cat", "dog", "owl"]',
        "mean": "0.3",
        "std": "0.2",
        "image_shape": f"1,{size},{size}",
        "method": "sp",
    }
    path = folder / "student.safetensors"
    save_weights(path, network.state_dict(), metadata)
    return path


def expected_logits(path: Path, images: Tensor) -> Tensor:
    tensors, metadata = read_weights(path)
    options = json.loads(metadata["options"])
    network = build_network(metadata["network"], num_classes=3, in_channels=1, **options)
    network.load_state_dict(tensors)
    with torch.no_grad():
        return network.eval()((images - MEAN[0]) / STD[0])


@pytest.mark.parametrize(("name", "options", "size"), NETWORKS, ids=IDS)
@pytest.mark.parametrize(
    "form", ["safetensors", *(pytest.param(f, marks=pytest.mark.full) for f in ("pt2", "onnx"))]
)
def test_the_file_gives_the_students_logits(
    tmp_path: Path, form: str, name: str, options: dict[str, Any], size: int
) -> None:
    weights = saved(tmp_path, name, options, size)
    path, difference = export_student(load_student(weights), form)
    assert path == tmp_path / "export" / f"student.{form}"
    assert difference <= 1e-4
    for batch in (1, 7):
        images = torch.rand(batch, 1, size, size)
        torch.testing.assert_close(run(path, images), expected_logits(weights, images), atol=1e-4, rtol=1e-4)


def run(path: Path, images: Tensor) -> Tensor:
    """An exported file's logits, by what a user of the format would write."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    if path.suffix == ".pt2":
        with torch.no_grad():
            return torch.export.load(path).module()(images)
    return expected_logits(path, images)


def test_a_program_of_one_network_in_the_default_suite(tmp_path: Path) -> None:
    weights = saved(tmp_path, "timm/vit_tiny_patch16_224", VIT)
    path, _ = export_student(load_student(weights), "pt2")
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(run(path, images), expected_logits(weights, images), atol=1e-4, rtol=1e-4)


def test_onnx_of_one_network_in_the_default_suite(tmp_path: Path) -> None:
    path, _ = export_student(load_student(saved(tmp_path)), "onnx", tmp_path / "deep" / "s.onnx")
    assert path == tmp_path / "deep" / "s.onnx"
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(
        run(path, images), expected_logits(tmp_path / "student.safetensors", images), atol=1e-4, rtol=1e-4
    )
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    check_program(facts, fit=None)


def check_program(facts: dict[str, str], fit: str | None) -> None:
    """What a program says of itself: no mean and std to apply, for it has applied them."""
    assert json.loads(facts["classes"]) == ["cat", "dog", "owl"]
    assert (facts["network"], facts["image_shape"]) == ("resnet8", "1,8,8")
    assert facts.keys().isdisjoint({"mean", "std"})
    assert Preprocessing.parse(facts["preprocessing"]).fit == fit
    steps = json.loads(facts["preprocessing"])
    normalisation = {
        "where": "inside the file", "formula": "(pixel - mean) / std", "mean": [0.3], "std": [0.2]
    }  # fmt: skip
    assert (steps["input_size"], steps["normalisation"]) == ([1, 8, 8], normalisation)


def test_the_file_says_what_feeds_it(tmp_path: Path) -> None:
    student = load_student(saved(tmp_path), overrides=["data.fit=crop"])
    path, _ = export_student(student, "safetensors")
    header = read_weights(path)[1]
    assert (header["mean"], header["std"]) == ("0.3", "0.2")
    steps = json.loads(header["preprocessing"])
    assert (steps["normalisation"]["where"], steps["crop"]) == (
        "outside the file, before the network", {"rule": "center", "size": [8, 8]}
    )  # fmt: skip
    program, _ = export_student(load_student(path), "pt2")  # of the exported file: it knows how it is fed
    extra = dict.fromkeys(("network", "classes", "image_shape", "preprocessing"), "")
    torch.export.load(program, extra_files=extra)
    check_program(extra, fit="crop")
    with ZipFile(program) as archive:
        assert not [name for name in archive.namelist() if name.endswith(("/mean", "/std"))]
    with refused("other-fit"):
        load_student(path, overrides=["data.fit=stretch"])


def test_a_run_from_before_its_weights_said_how_they_are_fed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--format", "safetensors")
    saved(tmp_path)
    assert cli_helpers.gkd("export", str(tmp_path / "student.safetensors"), *words) == 0
    assert "does not say how photographs of other sizes become its input" in capsys.readouterr().out
    for line, fit in (("fit: crop", "crop"), ("name: folder", "stretch")):
        (tmp_path / "config.yaml").write_text(f"data: {{{line}}}")
        assert load_student(tmp_path).preprocessing == Preprocessing(fit, "apply", "head")
    (tmp_path / "here").mkdir()
    assert cli_helpers.gkd("export", str(tmp_path), *words, "--out", str(tmp_path / "here")) == 0
    assert (tmp_path / "here" / "student.safetensors").is_file()
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "onnx"])  # which is slow
def test_a_file_that_gives_other_logits_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    student = load_student(saved(tmp_path))
    path = tmp_path / f"s.{form}"
    path.write_bytes(b"the one before")
    monkeypatch.setitem(
        gkd.commands.export._RUNNERS, form, lambda _: lambda images: torch.zeros(len(images), 3)
    )
    with refused("other-logits"):
        export_student(student, form, path)
    assert path.read_bytes() == b"the one before"
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, "student.safetensors"]


def test_only_a_regular_file_is_exported_to(tmp_path: Path) -> None:
    student, pipe = load_student(saved(tmp_path)), tmp_path / "device"
    os.mkfifo(pipe)
    with refused("not-a-regular-file"):
        export_student(student, "safetensors", pipe)
    assert pipe.is_fifo()


def test_a_network_that_cannot_be_exported_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = load_student(saved(tmp_path))
    monkeypatch.setattr(student.network, "forward", lambda images: images if images.sum() > 0 else -images)
    with refused("export-failed"):
        export_student(student, "pt2")
    assert list((tmp_path / "export").iterdir()) == []


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_the_sentence_has_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    student = load_student(saved(tmp_path))
    monkeypatch.setitem(sys.modules, module, None)
    with refused("package-missing"):
        export_student(student, "onnx")


@pytest.mark.parametrize(
    ("change", "overrides", "code"),
    [
        (
            {"classes": None, "mean": None},
            [],
            "metadata-missing",
        ),
        ({"image_shape": None}, [], "image-size-missing"),
        ({"mean": "grey"}, [], "header-unreadable"),
        ({}, ["data.image_size=big"], "image-size-out-of-range"),
        ({}, ["data.fit=squeeze"], "unknown-fit"),
        ({"preprocessing": '{"resize": {"rule": "zoom"}}'}, [], "header-unreadable"),
        ({}, ["student.network=resnet14"], "other-network"),
        ({}, ["student.netwrok=resnet8"], "unknown-override-of-gkd-export"),
        ({}, ["data.image_size=4"], "images-too-small"),
        ({"network": "os:abort"}, [], "untrusted-import"),
        (WeightMetadata(class_means=torch.ones(3, 2)).to_header(), [], "header-unreadable"),  # of 64 numbers
    ],
)
def test_a_file_that_cannot_be_exported_is_refused(
    tmp_path: Path, change: dict[str, str | None], overrides: list[str], code: str
) -> None:
    tensors, metadata = read_weights(saved(tmp_path))
    changed = {**metadata, **change}
    path = tmp_path / "changed.safetensors"
    save_weights(path, tensors, {key: value for key, value in changed.items() if value is not None})
    with refused(code):
        load_student(path, overrides=overrides)


def test_the_size_of_the_images_may_be_given(tmp_path: Path) -> None:
    tensors, metadata = read_weights(saved(tmp_path))
    del metadata["image_shape"]
    save_weights(tmp_path / "old.safetensors", tensors, metadata)
    student = load_student(tmp_path / "old.safetensors", overrides=["data.image_size=16"])
    assert student.metadata.image_shape == (1, 16, 16)


class Tiny(nn.Module):
    """A network of a user's own, which gkd taps."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_channels, 6, 3), nn.Linear(6, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(images).relu().mean((2, 3)))


@pytest.mark.parametrize("name", ["resnet8", f"{__name__}:Tiny"])
def test_a_program_answers_by_the_class_means_of_its_run(tmp_path: Path, name: str) -> None:
    """As the run was judged; the exported weights answer as the program does."""
    torch.manual_seed(0)
    network = build_network(name, num_classes=3).eval()
    means = F.normalize(torch.randn(3, network.head.in_features), dim=1)
    metadata = WeightMetadata(
        network=name, classes=("a", "b", "c"), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), image_shape=(3, 8, 8),
        preprocessing=Preprocessing("stretch", "ignore", EXEMPLAR_MEANS), class_means=means,
    )  # fmt: skip
    save_weights(tmp_path / "w.safetensors", network.state_dict(), metadata.to_header())
    student = load_student(tmp_path / "w.safetensors", overrides=[f"student.network={name}"])
    images = torch.rand(4, 3, 8, 8)
    looked = (images - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(
        3, 1, 1
    )
    with torch.no_grad():
        expected = F.normalize(network.features(looked).embedding, dim=1) @ means.T
    path, _ = export_student(student, "pt2", tmp_path / "s.pt2")
    files = {"preprocessing": "", "class_means": ""}
    program = torch.export.load(path, extra_files=files).module()
    torch.testing.assert_close(program(images), expected)
    steps = json.loads(files["preprocessing"])
    assert steps["output"] == "cosines to the class means, one column a class"
    assert not files["class_means"]
    pixels = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "photo.png")
    (answer,) = recognise_known(
        tmp_path / "w.safetensors", [tmp_path / "photo.png"], overrides=[f"student.network={name}"]
    )
    assert steps["probabilities"]["formula"] == "softmax(scale * output)"
    chances = F.softmax(steps["probabilities"]["scale"] * program(pixels.permute(2, 0, 1)[None] / 255), dim=1)
    assert answer.confidence == pytest.approx(chances.max().item(), abs=1e-5)
    assert answer.name == "abc"[chances.argmax()]
    path, difference = export_student(student, "safetensors", tmp_path / "s.safetensors")
    assert difference < 1e-4
    written = WeightMetadata.read(path).class_means
    assert written is not None
    assert torch.equal(written, means)
