"""The sets of weights in a file: what counts as one, which is taken, and how another is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gkd.storage.weight_sets import WeightFile, are_kin, preferred, weight_sets
from gkd.storage.weights import read_weight_file, read_weights, save_weights
from tests.refusals import refused

RAW = {"fc.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)}
EMA = {name: tensor + 1 for name, tensor in RAW.items()}


def written(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def optimiser() -> dict[str, Any]:
    network = nn.Linear(3, 2)
    adam = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    adam.step()
    return adam.state_dict()


def test_optimisers_and_schedules_hold_no_weights() -> None:
    named = {"fc.weight": {"exp_avg": torch.zeros(2, 3), "exp_avg_sq": torch.zeros(2, 3)}}
    content = {
        "net": RAW, "optimizer": optimiser(), "lr_scheduler": {"last": torch.zeros(1)},
        "amp_scaler": {"scale": torch.ones(1)},
        "teacher": {"state_dict": EMA, "optim": named}, "state": {"state": named, "param_groups": []}, "epoch": 3,
        "rng_state": torch.zeros(8), "accuracy": torch.tensor(71.5),
    }  # fmt: skip
    assert list(weight_sets(content)) == ["net", "teacher.state_dict"]


@pytest.mark.parametrize(
    "key",
    ["net", "model_state_dict", "network", "params", "student", "generator.weights", "nested.deeper.state_dict"],
)  # fmt: skip
def test_the_one_entry_is_taken_under_whatever_key(tmp_path: Path, key: str) -> None:
    content: Any = RAW
    for part in reversed(key.split(".")):
        content = {part: content, "epoch": 3, "best_acc": np.float64(97.04), "optimizer": optimiser()}
    tensors, header = read_weights(written(tmp_path / "w.pth", content))
    assert tensors.keys() == RAW.keys()
    assert header == {}


def test_numbers_may_stand_among_the_weights(tmp_path: Path) -> None:
    path = written(tmp_path / "w.pth", {**RAW, "epoch": 3, "name": "fc", "best": np.float32(1)})
    assert read_weights(path)[0].keys() == RAW.keys()


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "ema"),
        ("net", "ema_net"),
        ("model_state_dict", "ema_model_state_dict"),
        ("state_dict", "swa_state_dict"),
        ("network", "averaged_model"),
        ("model", "modelEma"),
    ],
)
def test_the_averaged_weights_are_the_default_and_either_can_be_named(
    tmp_path: Path, raw: str, averaged: str
) -> None:
    for order in ((raw, averaged), (averaged, raw)):
        content = {key: {raw: RAW, averaged: EMA}[key] for key in order}
        path = written(tmp_path / "w.pth", content)
        assert read_weights(path)[0]["fc.bias"].tolist() == [1, 1]
        for key, value in ((raw, 0), (averaged, 1)):
            assert read_weights(path, key)[0]["fc.bias"].tolist() == [value, value]


def test_kin_name_the_same_network() -> None:
    assert are_kin("state_dict", "state_dict_ema")
    assert are_kin("student.model", "student_ema")
    assert not are_kin("student", "teacher_ema")
    assert not are_kin("best_state_dict", "state_dict_ema")


def test_the_order_of_what_was_read_before_stays() -> None:
    """``model`` before ``state_dict``, whatever else is there; but its averaged weights before it."""
    assert preferred(["model", "state_dict", "net"], "model") == "model"
    assert preferred(["net", "state_dict"], "state_dict") == "state_dict"
    assert preferred(["model", "teacher_ema"], "model") == "model"
    assert preferred(["model", "state_dict_ema"], "model") == "state_dict_ema"
    assert preferred(["model", "model_ema", "model_swa"], "model") == "model"
    assert preferred(["net", "net_ema"], None) == "net_ema"
    assert preferred(["student", "student_ema", "teacher"], None) is None
    assert preferred(["student", "teacher_ema"], None) is None


def test_model_is_taken_before_state_dict_wherever_it_stands(tmp_path: Path) -> None:
    for content in (
        {"state_dict": EMA, "model": RAW},
        {"net": EMA, "model": {"state_dict": RAW}},
        {"net": EMA, "state_dict": RAW},
    ):
        assert read_weights(written(tmp_path / "w.pth", content))[0]["fc.bias"].tolist() == [0, 0]


def test_several_sets_are_listed_and_one_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "w.pth", {"student": RAW, "teacher": EMA, "epoch": 3})
    with refused("several-weights"):
        read_weights(path)
    with refused("unknown-checkpoint-key"):
        read_weights(path, "pupil")
    assert read_weights(path, "teacher")[0]["fc.bias"].tolist() == [1, 1]


def test_a_key_reaches_into_names_and_through_containers(tmp_path: Path) -> None:
    names = {**{f"student.{n}": t for n, t in RAW.items()}, **{f"teacher.{n}": t for n, t in EMA.items()}}
    bare = tmp_path / "w.safetensors"
    save_weights(bare, names)
    for path, keys in (
        (bare, ("student", "teacher")),
        (written(tmp_path / "w.pth", {"model": names, "epoch": 1}), ("model.student", "model.teacher")),
        (written(tmp_path / "n.pth", {"a": {"s": RAW, "t": EMA}}), ("a.s", "a.t")),
        (written(tmp_path / "c.pth", {"a": {"state_dict": RAW}, "b": {"state_dict": EMA}}), ("a", "b")),
    ):
        for key, value in zip(keys, (0, 1), strict=True):
            tensors = read_weights(path, key)[0]
            assert set(tensors) == set(RAW)
            assert tensors["fc.bias"].tolist() == [value, value]
    with refused("unknown-checkpoint-key"):
        read_weights(bare, "pupil")
    with refused("unknown-checkpoint-key"):
        read_weights(tmp_path / "n.pth", "a")


def test_a_file_without_weights_lists_what_it_holds(tmp_path: Path) -> None:
    """A tensor among lists is a result, no weight."""
    content = {"epoch": 3, "optimizer": optimiser(), "names": ["a"], "accuracy": torch.tensor(71.5)}
    path = written(tmp_path / "w.pth", content)
    with refused("no-state-dict"):
        read_weights(path)


def test_what_decides_a_run_is_what_may_be_loaded(tmp_path: Path) -> None:
    both = read_weight_file(written(tmp_path / "w.pth", {"model": RAW, "model_ema": EMA}))
    assert both.tensors_of_run("model").keys() == RAW.keys()
    assert len(both.tensors_of_run(None)) == 4
    assert [both.is_as_before(key) for key in (None, "model", "model_ema")] == [False, True, False]
    one = read_weight_file(written(tmp_path / "o.pth", {"state_dict": RAW}))
    assert one.tensors_of_run(None).keys() == RAW.keys()
    assert one.is_as_before(None)
    assert not read_weight_file(written(tmp_path / "n.pth", {"net": RAW})).is_as_before(None)
    inside = {
        **{f"student.{n}": t for n, t in RAW.items()},
        **{f"student_ema.{n}": t for n, t in EMA.items()},
    }
    assert not read_weight_file(written(tmp_path / "i.pth", inside)).is_as_before(None)


ODD = {
    "sparse": lambda w: w.to_sparse(),
    "csr": lambda w: w.to_sparse_csr(),
    "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "nested": lambda w: torch.nested.nested_tensor([w[0], w[1, :2]]),
    "jagged": lambda w: torch.nested.nested_tensor([w[0], w[1, :2]], layout=torch.jagged),
    "meta": lambda w: w.to("meta"),
    "a view of one value": lambda w: w[:1, :1].expand(10**6, 10**6),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", list(ODD))
def test_a_tensor_that_is_no_plain_array_is_a_sentence(tmp_path: Path, kind: str) -> None:
    odd: Tensor = ODD[kind](torch.ones(2, 3))
    path = written(tmp_path / "w.pth", {**RAW, "fc.weight": odd})
    file: WeightFile = read_weight_file(path)
    for read in (lambda: read_weights(path), lambda: file.tensors_of_run(None)):
        with refused("not-plain-weights"):
            read()
