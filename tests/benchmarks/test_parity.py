"""The committed parity results: within the tolerance where they must be, and what the README shows."""

import json
from pathlib import Path

import pytest

from gkd.models import NETWORKS
from tests.scripts import script

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
ROUTED = {"sakd", "sp", "rkd", "vid", "cc", "fitnet", "pkt", "crd"}
HEADS = ("srrl", "srrl_map", "cat_kd", "mlkd", "ctkd", "mgd", "ofa", "norm")
FILES = sorted((FOLDER / "results").glob("parity_*.json"))


def test_every_official_repository_is_compared():
    repositories = {json.loads(path.read_text())["official"]["repository"] for path in FILES}
    assert repositories == {
        "HobbitLong/RepDistiller",
        "megvii-research/mdistiller",
        "njulus/REFILLED",
        "njulus/GKD",
        "zju-vipa/spot-adaptive-pytorch",
        "VISION-SJTU/RSD",
        "roymiles/VkD",
        "zkxufo/TTM",
        "yzd-v/cls_KD",
        "bellymonster/Weighted-Soft-Label-Distillation",
        "DefangChen/SimKD",
        "jingyang2017/KD_SRRL",
        "GzyAftermath/CAT-KD",
        "Jin-Ying/Multi-Level-Logit-Distillation",
        "zhengli97/CTKD",
        "yzd-v/MGD",
        "Hao840/OFAKD",
        "OSVAI/NORM",
        "dvlab-research/ReviewKD",
        "clovaai/overhaul-distillation",
    }


@pytest.mark.parametrize(
    ("file", "methods"),
    [
        ("parity_repdistiller", {"kd", "sp", "at", "nst", "rkd", "pkt", "vid", "crd"}),
        ("parity_mdistiller", {"dkd"}),
        ("parity_sakd", ROUTED - {"pkt"}),  # of which float32 keeps too few digits
        ("parity_rsd", {"rsd"}),
        ("parity_vkd", {"vkd"}),
        ("parity_ttm", {"ttm", "wttm"}),
        ("parity_nkd", {"nkd"}),
        ("parity_wsld", {"wsld"}),
        ("parity_dot", {"kd_dot"}),
        ("parity_simkd", {"simkd"}),
        *((f"parity_{name}", {name}) for name in HEADS),
        ("parity_reviewkd", {"reviewkd"}),
        ("parity_ofd", {"ofd"}),
        ("parity_ab", {"ab", "kdsvd"}),
        ("parity_semckd", {"semckd"}),
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


@pytest.mark.parametrize(
    "file",
    [
        "parity_repdistiller",
        "parity_mdistiller",
        "parity_sakd",
        "parity_rsd",
        "parity_vkd",
        "parity_ttm",
        "parity_nkd",
        "parity_wsld",
        "parity_dot",
        "parity_simkd",
        *(f"parity_{name}" for name in HEADS),
        "parity_reviewkd",
        "parity_ofd",
        "parity_ab",
        "parity_semckd",
    ],
)
def test_the_students_learn(file):
    for comparison in json.loads((FOLDER / "results" / f"{file}.json").read_text())["comparisons"]:
        if comparison["method"].endswith("simkd.yaml") and comparison["phase"] == "late":
            continue  # a hundredth of the rate moves a mean over maps less than batches differ
        curves = comparison["curves"]["gkd"]
        # a total that is warmed up rises, or one that is on more samples at each step; its term does not
        routed = curves["cross_entropy"] if "routing" in curves else curves["total"]
        falling = curves.get("dkd", curves.get("reviewkd", routed))
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


def routed():
    return json.loads((FOLDER / "results" / "parity_sakd.json").read_text())["comparisons"]


def test_routing_agrees_to_rounding_in_float64():
    compared = [entry for entry in routed() if entry["must_agree"] and entry["dtype"] == "float64"]
    assert {Path(entry["method"]).stem for entry in compared} == ROUTED
    assert {entry["networks"] for entry in compared} == {"resnet14 -> resnet8", "wrn_16_2 -> resnet8"}
    late = [entry for entry in compared if entry["phase"] == "late"]
    assert {Path(entry["method"]).stem for entry in late} == ROUTED - {"crd"}
    for entry in compared:
        difference = {name: value["largest"] for name, value in entry["relative_difference"].items()}
        assert {"total", "cross_entropy", "kd", "routing", "share logits"} < set(difference)
        assert max(difference.values()) <= 1e-9
        assert not any(shares(difference).values())


def shares(curves):
    return {name: curve for name, curve in curves.items() if name.startswith("share ")}


def test_gates_differ_between_the_samples_of_a_batch():
    for entry in routed():
        spots = shares(entry["curves"]["gkd"])
        assert len(spots) >= 2
        for curve in spots.values():
            if "bias 10" in entry["name"]:
                assert curve[0] == 1
            else:
                assert 0 < curve[0] < 1
                # at the first rate the penalty soon has all logits' gates on
                assert entry["phase"] == "first" or sum(0 < share < 1 for share in curve) > 90


def test_the_routing_loss_has_the_penalty():
    penalised = set()
    for entry in routed():
        curves = entry["curves"]["official"]
        for loss, share in zip(curves["routing"], curves["share logits"], strict=True):
            missing = max(0.0, 32 - 64 * share)
            assert loss > missing
            if missing:
                penalised.add(entry["name"])
    assert len(penalised) >= len(ROUTED)


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
    assert script("benchmarks/parity/table.py").table() in (FOLDER / "parity" / "README.md").read_text(
        encoding="utf-8"
    )


def test_every_network_gives_the_numbers_of_the_authors_code():
    result = json.loads((FOLDER / "results" / "layouts.json").read_text())
    assert {entry["network"] for entry in result["networks"]} == set(NETWORKS)
    assert all(checkout["unchanged"] for checkout in result["official"])
    for entry in result["networks"]:
        for difference in entry["relative_difference"].values():
            assert max(difference if isinstance(difference, list) else [difference]) <= result["tolerance"]
