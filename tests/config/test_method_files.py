"""Methods by path and from packages: what they are called, how they are merged, which runs they name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd.config.load import load
from gkd.config.method_files import method_content
from gkd.config.shipped import load_method
from gkd.experiment.run_folder import run_folder
from tests.cli_helpers import gkd
from tests.refusals import refused

METHOD = """
paper: ours
summary: logits alone
stages:
  first: {epochs: 3, optimiser: {lr: 0.02}, terms: {cross_entropy: {weight: 1}, kd: {weight: 0.5}}}
"""
CONFIG = """
task: {name: standard}
data: {name: digits, per_class: 5, batch_size: 25}
teacher: {network: resnet8, train: {epochs: 1}}
student: {network: resnet8}
method: ../methods/mine.yaml
optimiser: {weight_decay: 0.001}
run: {epochs: 1, threads: 1}
compare: {baseline: mine, methods: [../methods/mine.yaml, student]}
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("methods", "configs"):
        Path(folder).mkdir()
    Path("methods/mine.yaml").write_text(METHOD)
    Path("configs/try.yaml").write_text(CONFIG)


def test_a_path_is_relative_to_the_config_and_named_by_its_stem() -> None:
    resolved = load("configs/try.yaml")
    method = resolved.experiment.method
    assert (method.name, list(method.stages)) == ("mine", ["first"])
    assert method.stages["first"].optimiser.lr == 0.02  # the file's
    assert method.stages["first"].optimiser.weight_decay == 0.001  # the experiment's, over the file
    assert resolved.origins["method.stages.first.optimiser.lr"] == "method mine"
    assert run_folder(resolved).parts[:3] == ("runs", "try", f"mine-{resolved.identity}")
    said = load("configs/try.yaml", ["method=methods/mine.yaml", "method.stages.first.terms.kd.weight=2"])
    assert said.experiment.method.stages["first"].terms["kd"].weight == 2
    grid = load("configs/try.yaml").experiment.compare
    assert grid is not None
    assert [getattr(row, "label", row) for row in grid.methods] == ["mine", "student"]


def test_its_content_names_the_run() -> None:
    first = load("configs/try.yaml").identity
    shutil.copytree("methods", "others")
    same = load("configs/try.yaml", ["method=others/mine.yaml"])
    assert same.identity == first
    Path("others/mine.yaml").write_text(METHOD.replace("0.5", "0.6"))
    changed = load("configs/try.yaml", ["method=./others/mine.yaml"])
    assert changed.identity != first
    assert changed.experiment.method.name == "mine"
    # A file that is called as a shipped method has none of that method's stages or terms.
    Path("others/refilled.yaml").write_text(METHOD)
    assert list(load("configs/try.yaml", ["method=others/refilled.yaml"]).experiment.method.stages) == [
        "first"
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (
            "others/mine.yaml",
            "method-file-missing",
        ),
        ("methods/a b.yaml", "not-a-folder-name"),
        ("mine", "unknown-method"),
    ],
)
def test_a_wrong_name_is_one_sentence(name: str, code: str) -> None:
    with refused(code) as caught:
        load("configs/try.yaml", [f"method={name}"])
    assert "\n" not in str(caught.value)


def test_mistakes_in_the_file_are_told_with_their_place() -> None:
    Path("methods/mine.yaml").write_text(METHOD.replace("epochs: 3", "epoch: 3"))
    with refused("invalid-method"):
        load_method("methods/mine.yaml")
    with refused("invalid-config"):
        load("configs/try.yaml")


def test_a_teacher_is_trained_by_a_method_with_a_name() -> None:
    with refused("invalid-config"):
        load("configs/try.yaml", ["teacher.train.method=methods/mine.yaml"])


def test_a_run_and_its_grid_need_the_file_no_more_when_they_are_finished(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gkd("show", "methods/mine.yaml") == 0
    assert "mine: logits alone" in capsys.readouterr().out
    assert gkd("compare", "configs/try.yaml") == 0
    assert "| mine" in capsys.readouterr().out
    (folder,) = Path("runs/try").glob("mine-*/seed0")
    shutil.rmtree("methods")
    assert gkd("eval", str(folder)) == 0
    assert gkd("validate", str(folder / "config.yaml")) == 0
    resolved = load(folder / "config.yaml")
    assert list(resolved.experiment.method.stages) == ["first"]
    assert folder.parent.name.endswith(resolved.identity)


def test_a_packages_method_is_the_file_of_its_name_there(offer: Callable[..., None]) -> None:
    Path("a_package").mkdir()
    Path("a_package/__init__.py").write_text("raise RuntimeError('imported')")
    Path("a_package/offered.yaml").write_text(METHOD)
    offer("gkd.methods", ("offered", "a_package"), ("lost", "a_package"), ("absent", "no_such_package"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path.cwd()))
        assert method_content("offered")["summary"] == "logits alone"
        assert load("configs/try.yaml", ["method=offered"]).experiment.method.name == "offered"
        for name in ("lost", "absent"):
            with refused("plugin-file-missing"):
                method_content(name)
