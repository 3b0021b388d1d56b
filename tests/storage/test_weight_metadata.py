"""What weight files say of their networks, and that a file which says nonsense is one sentence everywhere."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gkd.core.errors import UserError
from gkd.models import build_network
from gkd.storage.weight_metadata import WeightFacts
from tests.cli_helpers import FAST, gkd

SAID = {
    "network": "resnet8", "classes": '["0", "1"]', "mean": "0.1,0.2", "std": "1,2", "image_shape": "2,8,9",
    "options": '{"a": 1}', "taps": '{"maps": ["x"]}', "test_accuracy": "51.72", "recipe": "whatever else",
}  # fmt: skip


def test_every_fact_is_read() -> None:
    facts = WeightFacts.read(SAID, Path("f"))
    assert (facts.network, facts.classes, facts.mean, facts.std) == (
        "resnet8",
        ("0", "1"),
        (0.1, 0.2),
        (1.0, 2.0),
    )
    assert (facts.image_shape, facts.options, facts.taps) == ((2, 8, 9), {"a": 1}, {"maps": ["x"]})
    assert facts.test_accuracy == 51.72
    assert WeightFacts.read({}, Path("f")) == WeightFacts()


NONSENSE = [
    ("classes", "cat, dog"), ("classes", "[1, 2]"), ("classes", "[]"), ("mean", "grey"), ("std", ""),
    ("image_shape", "3,8"), ("image_shape", "3,0,8"), ("options", "[1]"), ("taps", "{"), ("test_accuracy", "good"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "text"), NONSENSE)
def test_nonsense_is_a_sentence(key: str, text: str) -> None:
    with pytest.raises(UserError, match=f"^What f says of its {key} cannot be read"):
        WeightFacts.read({**SAID, key: text}, Path("f"))


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
            "quickstart",
            "method=sp",
            "teacher.network=resnet8",
            "teacher.checkpoint=bad.safetensors",
            *FAST,
        ),
        ("run", "quickstart", "method=student", "student.checkpoint=bad.safetensors", *FAST),
    ):
        assert gkd(*words) == 2
        assert f"says of its {key} cannot be read" in capsys.readouterr().err


def test_a_students_file_must_fit_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "student.safetensors"
    state = build_network("resnet8", num_classes=5, in_channels=1).state_dict()
    words = ("run", "quickstart", "--dry-run", "method=student", f"student.checkpoint={path}")
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
