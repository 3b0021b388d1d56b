"""benchmarks/losses.py covers every loss, its plain forms agree, and what it cannot feed it refuses by name."""

import json
from pathlib import Path

import pytest
import torch

from gkd.config.shipped import shipped_methods
from gkd.losses import LOSSES
from gkd.methods.spots import Preact
from tests.processes import Child, python_file

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "losses.json"
    words = [
        "--quick",
        "--repeats",
        "0",
        "--rounds",
        "0",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    trial = Child(python_file, str(FOLDER / "losses.py"), *words, cwd=FOLDER.parent)
    _, errors = trial.communicate()
    assert trial.returncode == 0, errors
    return json.loads(out.read_text()) | {"table": out.with_suffix(".md").read_text()}


@pytest.mark.full
def test_every_loss_is_timed_and_stands_in_the_table(result):
    timed = {cell["loss"] for cell in result["cells"] if cell["form"] == "gkd" and cell["seconds"] > 0}
    assert timed == LOSSES.keys()
    assert result["step"]["share"].keys() == LOSSES.keys()
    assert all(f"| {loss} | gkd |" in result["table"] for loss in LOSSES)


@pytest.mark.full
def test_every_plain_form_that_is_asked_for_runs(result, scripts):
    timed = {(cell["loss"], cell["form"]) for cell in result["cells"] if "seconds" in cell}
    forms = scripts("_loss_forms").FORMS
    assert {"nst", "fsp", "rkd_angle", "tuples", "crd"} <= forms.keys()
    assert {(loss, form) for loss in forms for form in forms[loss]} <= timed
    assert {(loss, "floor") for loss in scripts("_loss_floors").FLOORS} <= timed


@pytest.mark.full
def test_values_agree(result):
    assert result["largest_relative_difference"] < 1e-3  # float32; in float64 the script asserts 1e-4


def test_a_form_with_another_value_is_refused(scripts):
    forms = scripts("_loss_forms")
    wrong = forms.Form(lambda ours: lambda *maps: 1.001 * forms.fsp_loop(*maps), lambda batch, width: 0.0)
    check = scripts("losses").check_agreement
    check("fsp", forms.FORMS["fsp"]["loop"], 256, torch.device("cpu"))
    with pytest.raises(AssertionError, match="fsp: the plain form gives"):
        check("fsp", wrong, 256, torch.device("cpu"))


def test_a_form_that_is_too_large_or_too_slow_is_not_run(scripts):
    form, skipped = scripts("_loss_forms").FORMS["nst"]["broadcast"], scripts("losses").why_skipped
    assert skipped(form, 64, 256, []) is None
    assert skipped(form, 1024, 256, []).startswith("needs")
    assert skipped(form, 128, 256, [{"batch": 64, "seconds": 15.0}]) == "would take 30 s"
    assert skipped(form, 128, 256, [{"batch": 64, "skipped": "would take 30 s"}]) == "as before"


def test_a_newcomer_needs_no_line_and_one_that_is_gone_keeps_none(scripts, monkeypatch):
    inputs = scripts("_loss_inputs")
    monkeypatch.setitem(LOSSES, "newcomer", LOSSES["sp"])
    assert inputs.readings("newcomer") == ((3,),)
    assert inputs.readings("kd") == ((),)
    inputs.check_readings()
    # Not out of the registry itself, whose order the docs show: it would come back as its last.
    monkeypatch.setattr(inputs, "LOSSES", {name: loss for name, loss in LOSSES.items() if name != "pod"})
    with pytest.raises(inputs.Gone, match="pod"):
        inputs.check_readings()


def numbers_of(reading):
    """The student's spots of one value of a term; a map before its activation by the map's number."""
    return [spot.number if isinstance(spot, Preact) else spot for spot, _ in reading]


def test_readings_are_those_of_the_shipped_methods(scripts):
    readings = scripts("_loss_inputs").readings
    for method in shipped_methods().values():
        for stage in method.stages.values():
            for term in stage.terms.values():
                if not term.entry.spot_needs:
                    continue
                spots = [
                    tuple(spot if isinstance(spot, str) else spot % 4 for spot in numbers)
                    for numbers in map(numbers_of, term.readings)
                ]
                assert tuple(spots) == readings(term.loss), term.loss


def test_what_is_asked_for_is_checked(scripts):
    def cell(loss, form, width, batch, seconds, extra_bytes=0):
        names = ("loss", "form", "width", "batch", "seconds", "extra_bytes")
        return dict(zip(names, (loss, form, width, batch, seconds, extra_bytes), strict=True))

    cells = [
        cell("nst", "gkd", 256, 64, 1.0),
        cell("nst", "broadcast", 256, 64, 30.0),
        cell("fsp", "gkd", 256, 64, 1.0),
        cell("fsp", "broadcast", 256, 64, 9.0),
        cell("rkd_angle", "gkd", 128, 1024, 1.0, 1_600_000_000),
    ]
    lines = scripts("losses").wanted({"cells": cells})
    assert [(line["what"].split(":")[0], line["reached"]) for line in lines] == [
        ("nst", True),
        ("fsp", False),
        ("rkd_angle", False),
    ]


def test_the_committed_result_is_a_full_one_and_reaches_what_is_asked_for():
    committed = json.loads((FOLDER / "results" / "losses.json").read_text())
    assert not committed["quick"]
    assert committed["sizes"] == [64, 128, 256, 512, 1024]
    assert {
        cell["loss"] for cell in committed["cells"]
    } <= LOSSES.keys()  # a newer one is measured with the next
    assert len(committed["wanted"]) == 5
    assert all(line["reached"] for line in committed["wanted"])
