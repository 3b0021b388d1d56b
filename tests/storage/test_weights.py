"""Weights load from the formats that the field uses, and nothing runs."""

from __future__ import annotations

import os
import pickle
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gkd.storage.weights
from gkd.models import build_network
from gkd.models.load import load_body
from gkd.storage.weights import copy_state, read_weights, save_weights, state_hash, tensors_hash
from tests.network_helpers import load_tensors
from tests.refusals import refused


def test_a_student_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: Any, full_disk: Any
) -> None:
    monkeypatch.setattr(gkd.storage.weights, "write_safetensors", full_disk)
    with refused("write-failed"):
        save_weights(tmp_path / "student.safetensors", {"w": torch.zeros(1)})
    assert listing(tmp_path) == []


STATE = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}


def assert_loads(tensors: dict[str, torch.Tensor], path: Path) -> None:
    network = nn.ModuleDict({"fc": nn.Linear(3, 2)})
    load_tensors(network, tensors, "fc", path)
    assert all(tensor.equal(STATE[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"model": STATE, "epoch": 3, "best_acc": 71.5},
        {"state_dict": STATE},
        {"model": STATE, "opt": Namespace(lr=0.05, milestones=[150]), "accuracy": torch.tensor(71.5)},
        {f"module.{name}": tensor for name, tensor in STATE.items()},
        {"model": {f"module.{name}": tensor for name, tensor in STATE.items()}},
        {
            "model": {
                **{f"module.student.{n}": t for n, t in STATE.items()},
                "module.teacher.w": STATE["fc.bias"],
            }
        },
    ],
    ids=["bare", "model", "state_dict", "with arguments", "module.", "model of module.", "module.student."],
)
def test_torch_files_of_the_field_are_read(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    tensors, metadata = read_weights(path)
    assert metadata == {}
    assert_loads(tensors, path)


def test_safetensors_keep_their_metadata(tmp_path: Path, listing: Any) -> None:
    path = tmp_path / "student.safetensors"
    save_weights(path, {"w": torch.ones(4, 4).T[:2]}, {"classes": '["a"]'})
    tensors, metadata = read_weights(path)
    assert metadata == {"classes": '["a"]'}
    assert torch.equal(tensors["w"], torch.ones(2, 4))
    assert listing(tmp_path) == ["student.safetensors"]


def test_equal_weights_and_metadata_are_equal_bytes_in_the_mode_of_the_umask(tmp_path: Path) -> None:
    facts = {
        "network": "resnet8",
        "mean": "0.5",
        "std": "0.25",
        "classes": '["a"]',
        "method": "kd",
        "options": "{}",
    }
    before = os.umask(0o022)
    try:
        for number in range(8):  # a writer that orders them at random is found out
            save_weights(
                tmp_path / f"{number}.safetensors", STATE, dict(sorted(facts.items(), reverse=number % 2))
            )
    finally:
        os.umask(before)
    files = sorted(tmp_path.iterdir())
    assert len({path.read_bytes() for path in files}) == 1
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


def test_a_hash_is_of_names_shapes_types_and_values_and_of_no_order() -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    same = {"b": torch.ones(4)[::2], "a": torch.zeros(2, 3)}
    assert tensors_hash(same) == tensors_hash(tensors)
    for other in (
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": torch.full((2, 3), -0.0)},
        {"c": torch.zeros(2, 3)},
    ):
        assert tensors_hash(tensors | other) != tensors_hash(tensors)


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("prefix", ["", "module.", "module.student."])
def test_a_wrapped_network_is_read_from_safetensors(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, {f"{prefix}{name}": tensor for name, tensor in STATE.items()})
    tensors, _ = read_weights(path)
    assert_loads(tensors, path)


def test_a_part_called_module_keeps_its_name(tmp_path: Path) -> None:
    """As where a network wraps another one, alone or beside more."""
    for parts in ({"module": nn.Linear(3, 2)}, {"module": nn.Linear(3, 4), "fc": nn.Linear(4, 2)}):
        network, path = nn.ModuleDict(parts), tmp_path / "weights.safetensors"
        save_weights(path, network.state_dict())
        expected = copy_state(network)
        network.load_state_dict({name: tensor + 1 for name, tensor in expected.items()})
        load_tensors(network, read_weights(path)[0], "wrapper", path)
        assert all(tensor.equal(expected[name]) for name, tensor in network.state_dict().items())


def test_a_part_under_two_names_is_saved(tmp_path: Path) -> None:
    head = nn.Linear(3, 2)
    network, path = nn.ModuleDict({"fc": head, "classifier": head}), tmp_path / "weights.safetensors"
    save_weights(path, network.state_dict())
    tensors, _ = read_weights(path)
    assert tensors["fc.weight"].equal(head.weight)
    assert tensors["classifier.weight"].equal(head.weight)


@pytest.mark.parametrize("harm", [False, True])
def test_arguments_hold_no_objects_that_run(tmp_path: Path, harm: bool) -> None:
    """A Namespace is read for what it is; what hides in it is refused as everywhere."""
    path, sign = tmp_path / "weights.pth", tmp_path / "harmed"
    torch.save({"model": STATE, "opt": Namespace(out=Harm(sign) if harm else "here")}, path)
    if harm:
        with refused("checkpoint-unreadable"):
            read_weights(path)
    else:
        assert set(read_weights(path)[0]) == set(STATE)
    assert not sign.exists()
    # nothing stays allowed behind the call
    assert Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_file_that_would_run_code_is_refused(tmp_path: Path, writer: str) -> None:
    path, sign = tmp_path / "weights.pth", tmp_path / "harmed"
    content = {"model": {"w": torch.zeros(1)}, "extra": Harm(sign)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with refused("checkpoint-unreadable"):
        read_weights(path)
    assert not sign.exists()


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("absent.pth", None, "checkpoint-missing"),
        ("student.onnx", b"", "program-not-weights"),
        ("STUDENT.PT2", b"", "program-not-weights"),
        ("w.safetensors", b"not weights", "checkpoint-unreadable"),
        ("w.pth", b"not weights", "checkpoint-unreadable"),
        ("w.pth", b"", "checkpoint-unreadable"),
        ("w.pth", b"PK\x03\x04 no directory", "checkpoint-unreadable"),
        ("w.onnx", b"a program", "program-not-weights"),
        ("w.pth", {}, "no-state-dict"),
        ("w.pth", [1, 2], "no-state-dict"),
        ("w.pth", {"epoch": 3}, "no-state-dict"),
    ],
)
def test_what_is_no_weight_file_is_said(tmp_path: Path, name: str, content: Any, code: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with refused(code):
        read_weights(path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_cut_short_is_said(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".pth"):
        torch.save(STATE, path)
    else:
        save_weights(path, STATE)
    os.truncate(path, path.stat().st_size // 2)
    with refused("checkpoint-unreadable"):
        read_weights(path)


def as_torchdistill(name: str) -> str:
    """A wide network's entry under the name that torchdistill gives it."""
    return re.sub(r"block(\d)\.layer\.", r"layer\1.", name).replace("convShortcut.", "shortcut.0.")


def test_torchdistills_wide_networks_load() -> None:
    source, network = (build_network("wrn_16_2", num_classes=3) for _ in range(2))
    theirs = {as_torchdistill(name): tensor for name, tensor in copy_state(source).items()}
    assert {"layer1.0.bn1.weight", "layer2.0.shortcut.0.weight", "layer3.1.conv2.weight"} <= theirs.keys()
    load_tensors(network, theirs, "wrn_16_2", Path("w.pt"))
    assert state_hash(network) == state_hash(source)
    del theirs["layer3.1.conv2.weight"]
    with refused("other-network"):
        load_tensors(network, theirs, "wrn_16_2", Path("w.pt"))


def test_a_wrong_head_of_a_tapped_network_says_its_classes() -> None:
    tensors = copy_state(build_network("torchvision/resnet18", num_classes=100))
    network = build_network("torchvision/resnet18", num_classes=50)
    with refused("other-classes"):
        load_tensors(network, tensors, "torchvision/resnet18", Path("w.pth"))


def resnet(name: str = "resnet8", classes: int = 3) -> nn.Module:
    return build_network(name, num_classes=classes, in_channels=1)


def loaded(tensors: dict[str, Tensor]) -> nn.Module:
    network = resnet()
    load_tensors(network, tensors, "resnet8", Path("w.pth"))
    return network


def test_weights_load_strictly_but_for_batch_counters() -> None:
    source = copy_state(resnet())
    assert state_hash(loaded(source)) == state_hash(loaded(copy_state(loaded(source))))
    old = {name: tensor for name, tensor in source.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(source)
    assert all(torch.equal(tensor, loaded(old).state_dict()[name]) for name, tensor in old.items())


@pytest.mark.parametrize(
    ("network", "classes", "code"),
    [
        (
            "resnet14",
            3,
            "other-network",
        ),
        (
            "resnet8",
            5,
            "other-classes",
        ),
    ],
)
def test_weights_of_another_network_are_refused(network: str, classes: int, code: str) -> None:
    with refused(code):
        loaded(copy_state(resnet(network, classes)))


def test_weights_of_another_shape_are_refused() -> None:
    tensors = copy_state(build_network("resnet8", num_classes=3, in_channels=3))
    with refused("other-channels"):
        loaded(tensors)


def test_missing_weights_are_refused() -> None:
    tensors = copy_state(resnet())
    del tensors["fc.bias"]
    with refused("other-network"):
        loaded(tensors)


def test_a_copied_state_does_not_follow_the_module() -> None:
    network = resnet()
    copied = copy_state(network)
    with torch.no_grad():
        network.head.bias.add_(1)  # type: ignore[operator, union-attr]
    assert not torch.equal(copied["fc.bias"], network.state_dict()["fc.bias"])


def test_a_body_is_loaded_without_its_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, ours = build_network("resnet8", num_classes=5), build_network("resnet8", num_classes=3)
    save_weights(tmp_path / "body.safetensors", theirs.state_dict(), {})
    head = ours.head.weight.clone()
    load_body(ours, tmp_path / "body.safetensors", name="resnet8")
    assert torch.equal(ours.head.weight, head)
    body = {key: values for key, values in theirs.state_dict().items() if not key.startswith("fc.")}
    assert len(body) == len(theirs.state_dict()) - 2
    assert all(torch.equal(values, ours.state_dict()[key]) for key, values in body.items())
    with refused("other-network"):
        load_body(build_network("resnet14", num_classes=3), tmp_path / "body.safetensors", name="resnet14")
