"""The committed parity results: within the tolerance where they must be, and what the README shows."""

import importlib.util
import json
from pathlib import Path

import pytest

from gkd.models import NETWORKS

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
FILES = sorted((FOLDER / "results").glob("parity_*.json"))


def test_every_official_repository_is_compared():
    repositories = {json.loads(path.read_text())["official"]["repository"] for path in FILES}
    assert repositories == {
        "HobbitLong/RepDistiller",
        "megvii-research/mdistiller",
        "njulus/REFILLED",
        "njulus/GKD",
    }


@pytest.mark.parametrize(
    ("file", "methods"),
    [
        ("parity_repdistiller", {"kd", "sp", "at", "nst", "rkd", "pkt", "vid", "crd"}),
        ("parity_mdistiller", {"dkd"}),
    ],
)
def test_every_method_agrees_in_float32(file, methods):
    comparisons = json.loads((FOLDER / "results" / f"{file}.json").read_text())["comparisons"]
    agree = {
        Path(comparison["method"]).stem
        for comparison in comparisons
        if comparison["must_agree"] and comparison["dtype"] == "float32"
    }
    assert agree == methods


@pytest.mark.parametrize("file", ["parity_repdistiller", "parity_mdistiller"])
def test_the_students_learn(file):
    for comparison in json.loads((FOLDER / "results" / f"{file}.json").read_text())["comparisons"]:
        curves = comparison["curves"]["gkd"]
        # a total that is warmed up rises; its term before weighting does not
        falling = curves["dkd"] if "dkd" in curves else curves["total"]
        assert sum(falling[-10:]) < sum(falling[:10])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_curves_agree_where_they_must(path):
    result = json.loads(path.read_text())
    required = [comparison for comparison in result["comparisons"] if comparison["must_agree"]]
    assert {comparison["dtype"] for comparison in required} == {"float32", "float64"}
    for comparison in required:
        assert comparison["steps"] == 100
        curves = comparison["curves"]
        for name in comparison["relative_difference"]:
            for official, ours in zip(curves["official"][name], curves["gkd"][name], strict=True):
                assert abs(official - ours) <= result["tolerance"] * abs(official)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_losses_depend_on_the_weights(path):
    for comparison in json.loads(path.read_text())["comparisons"]:
        if comparison["dtype"] == "float32":
            assert comparison["official_against_itself_one_ulp_apart"]["total"]["largest"] > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_official_code_was_unchanged(path):
    official = json.loads(path.read_text())["official"]
    assert official["unchanged"] is True
    assert len(official["commit"]) == 40


def test_readme_shows_the_results():
    spec = importlib.util.spec_from_file_location("parity_table", FOLDER / "parity" / "table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.table() in (FOLDER / "parity" / "README.md").read_text(encoding="utf-8")


def test_every_network_gives_the_numbers_of_the_authors_code():
    result = json.loads((FOLDER / "results" / "layouts.json").read_text())
    assert {entry["network"] for entry in result["networks"]} == set(NETWORKS)
    assert all(checkout["unchanged"] for checkout in result["official"])
    for entry in result["networks"]:
        for difference in entry["relative_difference"].values():
            assert max(difference if isinstance(difference, list) else [difference]) <= result["tolerance"]
