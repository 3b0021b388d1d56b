"""Headers of weight files: read, written, and refused in one sentence everywhere where they are nonsense."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gkd.models import build_network
from gkd.storage.preprocessing import Preprocessing
from gkd.storage.weight_metadata import CompleteMetadata, WeightMetadata
from gkd.storage.weights import read_header
from tests.cli_helpers import FAST, gkd
from tests.refusals import refused

HEADER = {
    "network": "resnet8", "classes": '["0", "1"]', "mean": "0.1,0.2", "std": "1.0,2.0", "image_shape": "2,8,9",
    "options": '{"a": 1}', "taps": '{"maps": ["x"]}', "method": "sp", "test_accuracy": "51.70",
    "recipe": "whatever else",
}  # fmt: skip
STEPS = json.dumps(
    Preprocessing("crop", "apply", "a tree").describe(
        mean=(0.1, 0.2), std=(1.0, 2.0), image_shape=(2, 8, 9), classes=("0", "1"), inside=False
    )
)
HEADER["preprocessing"] = STEPS


def test_every_entry_is_read_and_written_as_it_was() -> None:
    metadata = WeightMetadata.from_header(HEADER, Path("f"))
    assert metadata == WeightMetadata(
        "resnet8", ("0", "1"), (0.1, 0.2), (1.0, 2.0), (2, 8, 9), "sp", {"a": 1}, {"maps": ["x"]}, 51.7,
        Preprocessing("crop", "apply", "a tree"),
    )  # fmt: skip
    assert metadata.to_header() == {key: text for key, text in HEADER.items() if key != "recipe"}
    assert WeightMetadata.from_header({}, Path("f")) == WeightMetadata()
    assert WeightMetadata().to_header() == {}


def test_what_feeds_a_network_must_all_be_there() -> None:
    complete = WeightMetadata.from_header(HEADER, Path("f")).complete(Path("f"))
    assert complete == CompleteMetadata("resnet8", ("0", "1"), (0.1, 0.2), (1.0, 2.0), (2, 8, 9))
    part = WeightMetadata(network="resnet8", mean=(0.5,), std=(0.5,))
    assert part.absent() == ["classes", "image_shape"]
    with refused("metadata-missing"):
        part.complete(Path("f"), "take another")


def test_the_header_of_a_file_is_read_without_its_tensors(tmp_path: Path) -> None:
    """A sparse file of 64 GiB, more than can be read here; and a torch file, which is not opened at all."""
    count = 2**34
    header = {"__metadata__": HEADER, "w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    text = json.dumps(header).encode()
    path = tmp_path / "large.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + 4 * count)
    assert read_header(path) == HEADER
    assert WeightMetadata.read(path).classes == ("0", "1")
    (tmp_path / "w.pth").write_text("no weights")
    assert WeightMetadata.read(tmp_path / "w.pth") == WeightMetadata()
    with refused("checkpoint-missing"):
        WeightMetadata.read(tmp_path / "absent.pth")
    os.truncate(path, 100)
    with refused("checkpoint-unreadable"):
        WeightMetadata.read(path)


NONSENSE = [
    ("classes", "cat, dog"), ("classes", "[1, 2]"), ("classes", "[]"), ("mean", "grey"), ("mean", "0.5,nan"),
    ("std", ""),
    ("std", "1,0"), ("std", "1.0,-2.0"), ("std", "1.0"), ("test_accuracy", "nan"), ("test_accuracy", "1,2"),
    ("options", "[" * 50_000),
    ("class_means", "[]"), ("class_means", '{"shape": [2, 0], "float32": ""}'),
    ("class_means", '{"shape": [2, 1], "float32": "AACAPw=="}'),
    ("class_means", '{"shape": [1, 1], "float32": "AACAPw=="}'),
    ("class_means", '{"shape": [2, 1], "float32": "AACAfwAAgD8="}'),
    ("class_means", '{"shape": [2, 1], "float32": "?"}'),
    ("image_shape", "3,8"), ("image_shape", "3,0,8"), ("options", "[1]"), ("taps", "{"), ("test_accuracy", "good"),
    ("preprocessing", "[]"), ("preprocessing", '{"resize": {"rule": "zoom"}}'),
]  # fmt: skip


@pytest.mark.parametrize(("key", "text"), NONSENSE)
def test_nonsense_is_a_sentence(key: str, text: str) -> None:
    with refused("header-unreadable"):
        WeightMetadata.from_header({**HEADER, key: text}, Path("f"))


@pytest.mark.parametrize(
    ("key", "text"), [("classes", "cat"), ("options", "[1]"), ("mean", "grey"), ("test_accuracy", "x")]
)
def test_nonsense_is_a_sentence_for_every_verb(
    key: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    state = build_network("resnet8", num_classes=5, in_channels=1).state_dict()
    whole = {
        "network": "resnet8",
        "classes": json.dumps(list("01234")),
        "mean": "0",
        "std": "1",
        "image_shape": "1,8,8",
    }
    save_file(state, "bad.safetensors", {**whole, key: text})
    for words in (
        ("eval", "bad.safetensors", "data.name=digits"),
        ("export", "bad.safetensors", "--format", "safetensors"),
        (
            "run",
            "cross_task/digits",
            "method=sp",
            "teacher.network=resnet8",
            "teacher.checkpoint=bad.safetensors",
            *FAST,
        ),
        ("run", "cross_task/digits", "method=student", "student.checkpoint=bad.safetensors", *FAST),
    ):
        assert gkd(*words) == 2
        assert f"says of its {key} cannot be read" in capsys.readouterr().err


def test_a_students_file_must_fit_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "student.safetensors"
    state = build_network("resnet8", num_classes=5, in_channels=1).state_dict()
    words = ("run", "cross_task/digits", "--dry-run", "method=student", f"student.checkpoint={path}")
    for said, sentence in (
        (
            {"classes": json.dumps(list("43210"))},
            "has the columns 4, 3, 2, 1, 0, but the task gives the student 0, 1",
        ),
        ({"network": "resnet14"}, "student.checkpoint .* was trained as 'resnet14'"),
        ({"network": "resnet8", "options": '{"a": 1}'}, "unknown option 'a'"),
    ):
        save_file(state, path, said)
        assert gkd(*words) == 2
        assert re.search(sentence, capsys.readouterr().err)
    save_file({**state, "fc.bias": torch.zeros(5)}, path, {"classes": json.dumps(list("01234"))})
    assert gkd(*words) == 0


def test_class_means_travel_in_the_header_where_they_fit_there() -> None:
    means = torch.nn.functional.normalize(torch.randn(2, 5), dim=1)
    header = WeightMetadata(network="resnet8", classes=("0", "1"), class_means=means).to_header()
    read = WeightMetadata.from_header(header, Path("f")).class_means
    assert read is not None
    assert torch.equal(read, means)
    assert "class_means" not in WeightMetadata(class_means=torch.zeros(2000, 1000)).to_header()
    assert WeightMetadata().class_means is None
