"""benchmarks/routing.py: what is committed is whole, and its table says what it holds."""

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_committed_result_has_every_pair_and_method_and_reaches_what_is_asked_for(script):
    committed = json.loads((FOLDER / "results" / "routing.json").read_text())
    assert [(cell["teacher"], cell["student"]) for cell in committed["cells"]] == list(script.PAIRS)
    for cell in committed["cells"]:
        assert cell["methods"].keys() == script.METHODS.keys()
        assert all(row["times_kd"] <= script.ALLOWED for row in cell["methods"].values())
    assert (FOLDER / "results" / "routing.md").read_text() == script.table(committed) + "\n"


def test_a_step_trains_the_student_and_a_routed_one_the_policy_too(script):
    import torch

    for routed in (False, True):
        step = script.Step(("resnet14", "resnet8"), "at", routed, 4, torch.device("cpu"))
        assert step.seconds() > 0
        assert all(p.grad is not None for p in step.distiller.parameters())
        assert (step.distiller.router is not None) is routed
