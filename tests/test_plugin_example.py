"""The example package: its parts beside gkd's by name, offered as if it were installed."""

import json
import sys
import tomllib
from pathlib import Path

import pytest

from gkd.config.load import load
from tests.cli_helpers import gkd

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "plugin"
CONFIG = str(FOLDER / "stripes.yaml")
SHORT = ("run.epochs=2", "teacher.train.epochs=2", "run.threads=1")


@pytest.fixture
def _offered(offer, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.chdir(tmp_path)
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    for group, points in project["entry-points"].items():
        offer(group, *points.items())
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "gkd_example"]:
        del sys.modules[name]


def test_it_is_short():
    files = [path for path in FOLDER.rglob("*") if path.suffix in (".py", ".toml", ".yaml", ".md")]
    assert sum(len(path.read_text().splitlines()) for path in files) <= 150


@pytest.mark.usefixtures("_offered")
def test_its_parts_are_listed_without_an_import_and_used_by_name(capsys, tmp_path):
    assert gkd("ls") == 0
    printed = capsys.readouterr().out
    for part in (
        "parts:Stripes",
        "parts:TwoConvolutions",
        "parts:worst_class",
        "task:EverySecond",
        "losses:gram_loss",
        "methods",
    ):
        assert f"gkd_example.{part} of the package" in printed
    assert gkd("show", "gram") == 0
    assert "optimiser: name RAdam" in capsys.readouterr().out
    assert load(CONFIG).experiment.method.name == "gram"  # a check of the config imports nothing
    assert "gkd_example.parts" not in sys.modules
    assert gkd("run", CONFIG, *SHORT) == 0
    (folder,) = (tmp_path / "runs" / "stripes").rglob("seed0")
    metrics = json.loads((folder / "summary.json").read_text())["last"]["metrics"]
    assert set(metrics) == {"worst_class", "macro_f1", "in_the_dark"}
    assert 0 <= metrics["worst_class"] <= metrics["macro_f1"] <= 100
    capsys.readouterr()
    assert gkd("eval", str(folder)) == 0  # installed packages need no word of the user's
    assert f"macro_f1 {metrics['macro_f1']:.4g}" in capsys.readouterr().out


@pytest.mark.usefixtures("_offered")
def test_a_finished_run_gains_a_metric_without_training(capsys, tmp_path):
    words = ("run", CONFIG, "method=student", "teacher=null", *SHORT[:1], SHORT[2])
    assert gkd(*words, "evaluate.metrics=[]") == 0
    (folder,) = (tmp_path / "runs" / "stripes").rglob("seed0")
    weights = (folder / "student.safetensors").read_bytes()
    before = json.loads((folder / "summary.json").read_text())
    assert gkd(*words, "evaluate.metrics=[worst_class]") == 0
    assert "nothing was trained" in capsys.readouterr().out
    after = json.loads((folder / "summary.json").read_text())
    assert 0 <= after["last"].pop("metrics")["worst_class"] <= after["last"]["accuracy"]
    assert after["best"].pop("metrics").keys() == {"in_the_dark", "worst_class"}
    assert (folder / "student.safetensors").read_bytes() == weights
    for summary in (before, after):
        summary["last"].pop("metrics", None), summary["best"].pop("metrics", None)
        summary["manifest"].pop("sha256")  # of the summary itself
    assert after == before


@pytest.mark.usefixtures("_offered")
def test_a_name_of_gkds_is_refused_when_it_is_used(offer, capsys):
    for group, name, words in (
        ("gkd.networks", "resnet8", "student.network=resnet8"),
        ("gkd.datasets", "digits", "data.name=digits"),
        ("gkd.methods", "sp", "method=sp"),
        ("gkd.losses", "kd", "method=kd"),
        ("gkd.metrics", "macro_f1", "evaluate.metrics=[macro_f1]"),
        ("gkd.optimisers", "AdamW", "optimiser.name=AdamW"),
    ):
        offer(group, (name, "gkd_example.parts:Stripes"))
        assert gkd("validate", CONFIG, words) == 2
        error = capsys.readouterr().err
        assert f"{name!r} is gkd's, and the package" in error
