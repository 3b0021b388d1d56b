"""What a name that is nearly right is told: the closest, the flag, the form to write; and what is taken as meant."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import gkd
from gkd.cli import main
from gkd.config.load import load
from gkd.config.shipped import load_method
from gkd.losses import LOSSES, Loss
from gkd.methods.terms import Term
from tests.refusals import refused

NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.head = nn.Linear(64 * in_channels, num_classes)

    def forward(self, images):
        return self.head(images.flatten(1))
"""


def write(folder: Path, **sections: object) -> Path:
    content = {
        "task": {"name": "standard"}, "data": {"name": "digits"}, "student": {"network": "resnet8"}, "method": "student"
    }  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump({**content, **sections}))
    return folder / "mine.yaml"


def test_a_missing_config_is_told_the_closest_name_alone(tmp_path: Path) -> None:
    write(tmp_path)
    with refused("config-missing") as caught:
        load(tmp_path / "mien.yaml")
    assert f"did you mean '{tmp_path}/mine.yaml'?" in str(caught.value)
    with refused("config-missing") as caught:
        load(tmp_path / "elsewhere" / "quickstrat.yaml")
    assert "did you mean 'quickstart'?" in str(caught.value)
    assert "tiny_imagenet" not in str(caught.value)


def test_a_config_where_a_method_belongs_and_a_method_named_as_a_file() -> None:
    with refused("config-for-method"):
        load_method("cross_task/digits")
    with refused("method-file-missing") as caught:
        load("cross_task/digits", ["method=kdlik.yaml"])
    assert "as in method=kd;" in str(caught.value)
    with refused("unknown-method") as caught:
        load_method("quickfix")
    assert "Did you mean" not in str(caught.value)


def test_support_that_is_not_there_is_told_by_its_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gkd.commands.predict import _support_images
    from gkd.data.decoding import Form

    with refused("support-missing") as caught:
        _support_images(tmp_path / "nowhere", Form(), follow_links=False)
    assert str(caught.value).startswith("--support")


def test_a_runs_folder_is_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "student.safetensors").write_bytes(b"x")
    for side in ("student", "teacher"):
        words = [f"{side}.network=resnet8", f"{side}.checkpoint={tmp_path}"]
        sections = load(write(tmp_path), words).experiment
        section = sections.student if side == "student" else sections.teacher
        assert section is not None
        assert section.checkpoint == tmp_path / "student.safetensors"
    # so that a run is named by the weights, however they are named
    by_file = load(write(tmp_path), [f"student.checkpoint={tmp_path / 'student.safetensors'}"])
    assert by_file.identity == load(write(tmp_path), [f"student.checkpoint={tmp_path}"]).identity


def test_taps_may_be_numbers_and_other_values_are_told_in_one_line(tmp_path: Path) -> None:
    assert load(write(tmp_path), ["student.taps.maps=[0,2]"]).experiment.student.taps.maps == ("0", "2")
    with refused("invalid-config") as caught:
        load(write(tmp_path), ["student.taps.maps=[1.5]"])
    assert "\n" not in str(caught.value)


def test_another_task_drops_the_options_of_the_task_below(tmp_path: Path) -> None:
    path = write(tmp_path, extends="cross_task/digits", teacher={"network": "resnet20"})
    for overrides in ([], ["task={name: standard}"]):
        experiment = load(
            path if not overrides else "cross_task/digits", [*overrides, "method=student"]
        ).experiment
        assert type(experiment.task).__module__ == "gkd.tasks.standard"
    assert (
        load("cross_task/digits", ["task.shift=2"]).experiment.task.model_dump()["size"] == 5
    )  # the same task keeps them


def test_a_module_beside_the_users_config_is_found_but_not_beside_a_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    for folder, module in (("mine", "beside_mine"), ("run", "beside_run")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{module}.py").write_text(NETWORK)
        write(tmp_path / folder, student={"network": f"{module}:Net"})
    (tmp_path / "run" / "env.json").write_text("{}")
    load(tmp_path / "mine" / "mine.yaml")
    assert sys.path[-1] == str(tmp_path / "mine")
    words = ["student.network=beside_run:Net"]
    load(tmp_path / "run" / "mine.yaml", words)
    assert str(tmp_path / "run") not in sys.path
    with refused("file-for-module") as caught:
        gkd.run(
            str(tmp_path / "mine" / "mine.yaml"),
            **{"student.network": "beside_mine.py:Net", "run.out": str(tmp_path)},
        )
    assert "beside_mine:Net" in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, []])
def test_what_is_no_config_is_told_so(value: object) -> None:
    with refused("not-a-config"):
        gkd.run(value)  # type: ignore[arg-type]


@pytest.fixture
def own_losses() -> Iterator[None]:
    before = dict(LOSSES)
    yield
    LOSSES.clear()
    LOSSES.update(before)


@pytest.mark.usefixtures("own_losses")
def test_a_loss_that_a_user_puts_into_the_table_is_looked_at_as_one_from_outside() -> None:
    def bare(student_logits, labels, *, rate=1.0):  # type: ignore[no-untyped-def]
        return rate * student_logits.mean()

    def unknown_inputs(x, y):  # type: ignore[no-untyped-def]
        return x.mean()

    LOSSES.update(bare=Loss(bare, "none"), function=bare, inputs=Loss(unknown_inputs, "none"), number=3)  # type: ignore[arg-type]
    for name in ("bare", "function"):
        term = Term(loss=name, rate=2.0)
        assert term.needs == ("student_logits", "labels")
        assert (
            term.entry.function(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), rate=2.0).item() == 2.0
        )
    for name, said in (("inputs", "Unknown need 'x'"), ("number", "is a int")):
        with pytest.raises(ValueError, match=said):
            Term(loss=name)


def test_a_second_ctrl_c_ends_as_the_first_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gkd.cli as cli
    from gkd.core import text

    before = signal.getsignal(signal.SIGINT)

    def stopped(argv: object) -> int:
        raise KeyboardInterrupt

    told = []

    def complain(sentence: str) -> None:
        told.append(sentence)
        if len(told) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", stopped)
    monkeypatch.setattr(text, "complain", complain)
    try:
        assert main(["run"]) == 130
        assert signal.getsignal(signal.SIGINT) is before  # a caller in Python keeps its handler
        assert main() == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # the process is about to end
    finally:
        signal.signal(signal.SIGINT, before)


_BOMBARDED = """
import os, signal, sys, time
import gkd.cli
from gkd.core import text

def press():
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)

def work(argv):
    press()
    time.sleep(30)

def complain(sentence, say=text.complain):
    press()  # while the first one is told
    say(sentence)
    press()

gkd.cli._dispatch, text.complain = work, complain
code = gkd.cli.main()
press()
sys.exit(code)
"""


def test_any_number_of_quick_ctrl_c_ends_a_process_with_130_and_a_sentence() -> None:
    ended = subprocess.run([sys.executable, "-c", _BOMBARDED], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr.count("\n")) == (130, 1), ended.stderr
    assert ended.stderr.startswith("gkd: stopped at once")


def test_a_config_of_ones_own_without_its_ending_is_named_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    with refused("config-without-ending"):
        load("mine")
    (tmp_path / "my.exp.yml").touch()
    with refused("config-without-ending"):
        load("my.exp")
    with refused("unknown-config"):
        load("yours")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("mynets.Small", "mynets:Small"), ("pkg.nets.Small", "pkg.nets:Small"), ("mynets.py", "mynets:Net")],
)
def test_a_network_of_ones_own_is_told_its_form(tmp_path: Path, name: str, meant: str) -> None:
    with refused("invalid-config") as caught:
        load(write(tmp_path, student={"network": name}))
    assert meant in str(caught.value)
    assert "resnet8x4" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["rnu", "cross_task/digits"], "did you mean 'run'?"),
        (["run", "cross_task/digits", "--epochs", "5"], "a setting is a word a.b=c"),
        (["run", "cross_task/digits", "--optimiser.lr=0.1"], "a setting is a word a.b=c"),
    ],
)
def test_a_wrong_verb_and_a_setting_with_dashes_are_told_what_is_meant(
    words: list[str], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert advice in capsys.readouterr().err
