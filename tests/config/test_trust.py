"""Whose word is enough to import a module: the user's own files and the command line, never a run folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gkd.config.layers import merge
from gkd.config.load import load
from gkd.config.resolve import override_layers
from gkd.config.trust import check_trust, named_in
from gkd.core.errors import UserError
from gkd.experiment.prepare import prepare
from tests.cli_helpers import FAST, gkd
from tests.refusals import refused

# Leaves a file behind when it is imported.
MODULE = """
from pathlib import Path
from gkd.models import build_network
Path("imported").touch()

def small(num_classes, in_channels, deep=False):
    return build_network("resnet14" if deep else "resnet8", num_classes=num_classes, in_channels=in_channels)
"""
CONFIG = """
task: {name: standard}
data: {name: digits, per_class: 5, batch_size: 25}
teacher: {network: resnet8}
student: {network: "own_nets:small", options: {deep: true}}
method: student
run: {epochs: 1, threads: 1}
"""
Forget = Callable[[], None]


@pytest.fixture
def forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forget:
    """An empty folder with the module in it; called, it is as if the module had never been imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_nets.py").write_text(MODULE)
    (tmp_path / "mine.yaml").write_text(CONFIG)

    def again() -> None:
        sys.modules.pop("own_nets", None)
        Path("imported").unlink(missing_ok=True)

    again()
    return again


def imported() -> bool:
    return Path("imported").exists()


def run_folder() -> Path:
    (folder,) = Path("runs/mine").rglob("seed0")
    return folder


def test_a_users_own_file_is_enough_and_validation_imports_nothing(
    forget: Forget, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gkd("validate", "mine.yaml") == 0
    assert not imported()
    assert gkd("run", "mine.yaml") == 0
    assert imported()


def test_a_run_folder_is_not_enough(forget: Forget, capsys: pytest.CaptureFixture[str]) -> None:
    assert gkd("run", "mine.yaml") == 0
    folder = run_folder()
    for words in (
        ("eval", str(folder)),
        ("run", str(folder / "config.yaml")),
        ("validate", str(folder / "config.yaml")),
        ("eval", str(folder), "teacher.network=own_nets:larger"),
        ("export", str(folder), "--format", "safetensors"),
        ("export", str(folder / "student.safetensors"), "--format", "safetensors"),
    ):
        forget()
        capsys.readouterr()
        assert gkd(*words) == 2, words
        error = capsys.readouterr().err
        assert "name it on the command line: student.network=own_nets:small" in error
        assert error.count("\n") == 1
        assert not imported(), words
    for words in (("eval", str(folder)), ("export", str(folder), "--format", "safetensors")):
        forget()
        assert gkd(*words, "student.network=own_nets:small") == 0
        assert imported()


def test_the_axes_of_a_grid_in_a_run_folder_are_no_command_line(
    forget: Forget, capsys: pytest.CaptureFixture[str]
) -> None:
    """A grid makes overrides of what the file says; they carry no trust of their own."""
    folder = Path("received")
    folder.mkdir()
    (folder / "env.json").write_text("{}")
    text = CONFIG.replace('"own_nets:small", options: {deep: true}', "resnet8")
    grid = 'compare: {methods: [student], axes: {student.network: ["own_nets:small"]}}\n'
    (folder / "config.yaml").write_text(text + grid)
    assert gkd("compare", str(folder / "config.yaml"), *FAST[:1]) == 2
    assert "name it on the command line" in capsys.readouterr().err
    assert not imported()


def test_a_file_that_extends_a_run_folders_config_vouches_for_its_own_words_alone(forget: Forget) -> None:
    folder = Path("received")
    folder.mkdir()
    (folder / "summary.json").write_text("{}")
    (folder / "config.yaml").write_text(CONFIG)
    Path("over.yaml").write_text("extends: received/config\nrun: {epochs: 2}\n")
    with refused("untrusted-import"):
        load("over.yaml")
    Path("over.yaml").write_text('extends: received/config\nstudent: {network: "own_nets:small"}\n')
    assert load("over.yaml").experiment.run.epochs == 1


@pytest.mark.parametrize("key", ["student.network", "teacher.network", "data.name", "teacher.data.name"])
def test_every_key_that_can_name_a_module_is_covered(forget: Forget, key: str) -> None:
    folder = Path("received")
    folder.mkdir()
    section, _, rest = key.partition(".")
    value = {"network": "{network: 'own_nets:small'}", "name": "{name: 'own_nets:small'}"}.get(
        rest, "{network: resnet8, data: {name: 'own_nets:small'}}"
    )
    lines = [line for line in CONFIG.splitlines() if not line.startswith((f"{section}:", "student:"))]
    student = [] if section == "student" else ["student: {network: resnet8}"]
    (folder / "config.yaml").write_text("\n".join([*lines, *student, f"{section}: {value}"]))
    with refused("untrusted-import"):
        load(folder / "config.yaml", from_run=True)
    assert not imported()


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"optimiser": {"name": "own_nets:small"}}, "optimiser.name"),
        ({"evaluate": {"metrics": ["top5_accuracy", "own_nets:small"]}}, "evaluate.metrics"),
        ({"task": {"deep": {"down": [{"there": "own_nets:small"}]}}}, "task.deep.down.there"),
        ({"method": {"stages": {"one": {"terms": {"own_nets:small": {}}}}}}, "method.stages.one.terms"),
    ],
)
def test_any_value_of_that_form_needs_a_trusted_word(config: dict[str, object], key: str) -> None:
    with refused("untrusted-import"):
        check_trust(config, named_in([{"student": {"network": "own_nets:large"}}]))
    check_trust(config, named_in([{"run": {"device": "own_nets:small"}}]))


def test_texts_of_a_method_are_no_names() -> None:
    method = {"paper": "own_nets:small", "sources": {"a": "b:c"}}
    check_trust({"method": method}, frozenset())  # not refused, as the same text under another key is
    with refused("untrusted-import"):
        check_trust({"method": method, "student": {"network": "own_nets:small"}}, frozenset())


@pytest.mark.parametrize("kind", ["sha256", "crc", "tensors"])
def test_a_checksum_is_no_name_whatever_it_begins_with(kind: str) -> None:
    """Of hex that begins with a letter it has the form of one: a run folder holds what names its images."""
    checksum = f"{kind}:d{'0' * 63}"
    config: dict[str, Any] = {"data": {"fingerprint": checksum}, "teacher": {"sha256": checksum}}
    check_trust({**config, "teacher": {**config["teacher"], "data": dict(config["data"])}}, frozenset())
    with refused("untrusted-import"):
        check_trust({"student": {"network": "own_nets:small"}, **config}, frozenset())


def test_named_on_the_command_line_it_is_built_with_its_options(forget: Forget) -> None:
    resolved = load("mine.yaml", ["student.options={deep: false}"])
    assert prepare(resolved).student.__class__.__name__ == "ResNet"
    with refused("unknown-option"):
        prepare(load("mine.yaml", ["student.options.depe=1"]))


def test_all_that_a_run_folder_names_is_told_at_once_and_judging_needs_no_loss(
    forget: Forget, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own_losses.py").write_text(
        "import torch\n\n"
        "def size(student_embedding):\n    return student_embedding.square().mean()\n\n"
        "def count(logits, labels, relation):\n    return len(labels)\n\n"
        "class Slow(torch.optim.SGD):\n    pass\n"
    )
    sections = Path("mine.yaml").read_text().replace("method: student\n", "method: kd\n")
    Path("mine.yaml").write_text(f"{sections}evaluate: {{metrics: own_losses:count}}\n")
    term = "method.stages.distil.terms.size.loss=own_losses:size"
    optimiser = "optimiser.name=own_losses:Slow"
    assert gkd("run", "mine.yaml", *FAST[:2], term, optimiser, "optimiser.nesterov=false") == 0
    capsys.readouterr()
    assert gkd("eval", str(run_folder())) == 2
    error = capsys.readouterr().err
    words = shlex.split(error.partition("on the command line: ")[2])
    of_stage = f"method.stages.distil.{optimiser}"
    named = ['evaluate.metrics=["own_losses:count"]', of_stage, term, "student.network=own_nets:small"]
    assert sorted(words) == named
    assert gkd("eval", str(run_folder()), *words) == 0
    assert "count" in capsys.readouterr().out


def test_a_folder_that_learn2learn_unpickles_is_named_on_the_command_line() -> None:
    config = {"task": {"name": "few_shot", "episodes": {"source": "learn2learn", "root": "theirs"}}}
    check_trust(config, None)
    check_trust(config, named_in([{"task": {"episodes": {"root": "theirs"}}}]))
    for trusted in (frozenset[str](), named_in([{"data": {"root": "other"}}])):
        with refused("untrusted-files"):
            check_trust(config, trusted)


def test_a_class_that_is_called_like_a_module_keeps_its_place() -> None:
    """In a list, or as the key of a text: the words that vouch for it change nothing."""
    task = {"classes": ["ant", "wing:red"], "aliases": {"bee:big": "bee"}}
    with pytest.raises(UserError) as caught:
        check_trust({"task": task}, frozenset())
    words = shlex.split(str(caught.value).rpartition("command line: ")[2])
    merged: dict[str, Any] = {"task": {"classes": ["other"], "aliases": {"bee:big": "other"}}}
    layers = override_layers(words)
    for layer in layers:
        merge(merged, layer.content, layer.label, {})
    assert merged == {"task": task}
    check_trust({"task": task}, named_in(layer.content for layer in layers))


def test_a_checksum_is_no_name_to_import() -> None:
    """Though one that begins with a letter has the form of one."""
    digits = "d8" * 32
    data = {"fingerprint": f"sha256:{digits}"}
    check_trust({"data": data, "teacher": {"data": data, "sha256": f"tensors:{digits}"}}, frozenset())


OF_ALL_KINDS = """
import torch
from torch import nn

class Sgd(torch.optim.SGD):
    pass

def net(num_classes, in_channels):
    layers = nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, num_classes))

def worst(logits, labels, relation):
    return 1.0

def loss(student_logits, labels):
    return nn.functional.cross_entropy(student_logits, labels)
"""
OWN_EVERYTHING = """
task: {name: standard}
data: {name: digits, per_class: 2, batch_size: 10, augment: none}
student: {network: "mine:net"}
method:
  name: student
  stages: {train: {terms: {"mine:loss": {weight: 1}}, optimiser: {name: "mine:Sgd", nesterov: false}}}
evaluate: {metrics: [macro_f1, "mine:worst"]}
run: {epochs: 1, threads: 1}
"""


def test_the_words_of_the_refusal_are_taken_by_the_verb_that_printed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that is a value, an element of a list, a key; each once; after them the config is as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("mine", None)
    Path("mine.py").write_text(OF_ALL_KINDS)
    Path("own.yaml").write_text(OWN_EVERYTHING)
    assert gkd("run", "own.yaml") == 0
    (folder,) = Path("runs/own").rglob("seed0")
    Image.new("L", (8, 8)).save("a=b.png")
    config = str(folder / "config.yaml")
    words: list[str] = []
    for call in (
        ("predict", str(folder), "a=b.png"),
        ("eval", str(folder)),
        ("eval", str(folder / "student.safetensors"), "data.name=digits"),
        ("export", str(folder), "--format", "safetensors"),
        ("validate", config),
        ("run", config, "--dry-run"),
    ):
        capsys.readouterr()
        assert gkd(*call) == 2, call
        words = shlex.split(capsys.readouterr().err.rpartition("name it on the command line: ")[2])
        assert gkd(*call, *words) == 0, (call, words)
    assert len(words) == 4
    assert {word.split("=")[0] for word in words} == {
        "student.network", "evaluate.metrics", "method.stages.train.terms", "method.stages.train.optimiser.name",
    }  # fmt: skip
    vouched, before = load(config, words), load("own.yaml")
    assert vouched.identity == before.identity
    assert vouched.experiment.evaluate == before.experiment.evaluate


def test_options_that_name_a_file_are_taken_from_the_users_own_config_alone(tmp_path: Path) -> None:
    """``timm.create_model`` would open it; numbers and words are taken from a run folder too."""
    content = """
task: {name: standard}
data: {name: digits}
teacher: {network: timm/resnet10t, options: {pretrained_cfg: {file: evil.pth}, drop_rate: 0.1}}
student: {network: timm/resnet10t, options: {checkpoint_path: evil.pth, global_pool: avg}}
method: student
"""
    (tmp_path / "mine.yaml").write_text(content)
    assert load(tmp_path / "mine.yaml").experiment.student.options["checkpoint_path"] == "evil.pth"
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(content)
    (folder / "env.json").write_text("{}")
    with refused("untrusted-options"):
        load(folder / "config.yaml")
    student = "student.options.checkpoint_path=evil.pth"
    with refused("untrusted-options"):
        load(folder / "config.yaml", ["teacher=null"])
    with refused("untrusted-options"):
        load(folder / "config.yaml", [student])  # the teacher's is not vouched for by it
    resolved = load(folder / "config.yaml", [student, "teacher=null"])
    assert resolved.experiment.student.options == {"checkpoint_path": "evil.pth", "global_pool": "avg"}
    teacher = "teacher.options.pretrained_cfg={file: evil.pth}"
    assert load(folder / "config.yaml", [student, teacher]).experiment.teacher is not None
