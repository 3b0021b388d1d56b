"""A network's weights are found behind the prefixes of wrappers; where several networks fit, one is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gkd.core.errors import UserError
from gkd.models import build_network
from gkd.models.load import Loaded, load_network
from gkd.storage.weights import copy_state, save_weights, state_hash
from tests.refusals import refused

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def source() -> nn.Module:
    torch.manual_seed(1)
    return build_network("resnet8", num_classes=3)


@pytest.fixture(scope="module")
def other() -> nn.Module:
    torch.manual_seed(2)
    return build_network("resnet8", num_classes=3)


def behind(prefix: str, network: nn.Module) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in copy_state(network).items()}


def load(path: Path, content: Any, network: str = "resnet8", **more: Any) -> Loaded:
    if path.suffix == ".safetensors":
        save_weights(path, content)
    else:
        torch.save(content, path)
    return load_network(path, network=network, num_classes=3, **more)


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "net.", "model.", "backbone.", "encoder.net.0.",
        "module.module.", "_fsdp_wrapped_module._orig_mod.", "a.b.c.d.",
    ],
)  # fmt: skip
def test_any_chain_of_prefixes_is_removed(tmp_path: Path, source: nn.Module, prefix: str) -> None:
    names = behind(prefix, source)
    for name, content in (("w.safetensors", names), ("w.pth", names), ("k.pth", {"state_dict": names})):
        loaded = load(tmp_path / name, content)
        assert state_hash(loaded.network) == state_hash(source)
        assert loaded.notes == ()


def test_a_wrapper_of_a_part_is_removed(tmp_path: Path, source: nn.Module) -> None:
    names = {name.replace("layer1.", "layer1._orig_mod."): t for name, t in behind("module.", source).items()}
    assert len([name for name in names if "_orig_mod" in name]) > 5
    assert state_hash(load(tmp_path / "w.pth", names).network) == state_hash(source)


def test_what_stands_beside_the_network_is_left(tmp_path: Path, source: nn.Module) -> None:
    """A distiller's adapters, and a teacher: of other names, or of the same ones in another width."""
    torch.manual_seed(3)
    wide, narrow, other = (
        build_network(each, num_classes=3) for each in ("conv4_64", "conv4_32", "resnet8x4")
    )
    assert wide.state_dict().keys() == narrow.state_dict().keys()
    for student, teacher, of_student, of_teacher in (
        (source, other, "resnet8", "resnet8x4"),
        (narrow, wide, "conv4_32", "conv4_64"),
    ):
        names = (
            behind("student.", student) | behind("teacher.", teacher) | {"adapter.weight": torch.ones(3, 3)}
        )
        assert state_hash(load(tmp_path / "s.pth", names, of_student).network) == state_hash(student)
        assert state_hash(load(tmp_path / "t.pth", names, of_teacher).network) == state_hash(teacher)


def test_two_networks_that_fit_are_named_and_one_is_chosen(
    tmp_path: Path, source: nn.Module, other: nn.Module
) -> None:
    names = {**behind("student.", source), **behind("teacher.", other)}
    for file, content, place in (
        ("w.safetensors", names, ""),
        ("w.pth", names, ""),
        ("m.pth", {"model": names}, "model."),
    ):
        with refused("several-weights"):
            load(tmp_path / file, content)
        for key, network in (("student", source), ("teacher", other)):
            loaded = load(tmp_path / file, content, checkpoint_key=f"{place}{key}")
            assert state_hash(loaded.network) == state_hash(network)
    with refused("several-weights"):
        load(tmp_path / "c.pth", {"student": behind("module.", source), "teacher": behind("", other)})


def test_the_student_of_a_wrapped_distiller_is_taken_as_before(
    tmp_path: Path, source: nn.Module, other: nn.Module
) -> None:
    names = {**behind("module.teacher.", other), **behind("module.student.", source)}
    loaded = load(tmp_path / "w.pth", {"model": names})
    assert state_hash(loaded.network) == state_hash(source)
    (note,) = loaded.notes
    assert "takes model.module.student and not model.module.teacher" in note


def test_a_deeper_network_is_not_taken_for_a_shallow_one(tmp_path: Path) -> None:
    """Names that end like the network's first one stand in every block."""
    for prefix in ("", "module.", "net."):
        with refused("other-network"):
            load(tmp_path / "w.pth", behind(prefix, build_network("resnet14", num_classes=3)))


def test_averaged_weights_are_taken_and_said(tmp_path: Path, source: nn.Module, other: nn.Module) -> None:
    averaged = AveragedModel(source)  # torch's own: behind module., with a counter beside
    averaged.load_state_dict({"n_averaged": torch.tensor(5), **behind("module.", other)})
    for content, raw, ema in (
        ({"model": copy_state(source), "model_ema": averaged.state_dict()}, "model", "model_ema.module"),
        ({"state_dict_ema": copy_state(other), "state_dict": copy_state(source)}, "state_dict", "state_dict_ema"),
        ({"state_dict": {**behind("model.", source), **behind("ema_model.module.", other)}}, "state_dict.model",
         "state_dict.ema_model.module"),
        ({**copy_state(source), **behind("ema.", other)}, None, "ema"),
    ):  # fmt: skip
        loaded = load(tmp_path / "w.pth", content)
        assert state_hash(loaded.network) == state_hash(other)
        (note,) = loaded.notes
        assert f"takes {ema}, the averaged weights, and not {raw or '(bare)'}" in note
        if raw is not None:
            assert note.endswith(f"to choose: checkpoint_key={raw}")
            assert state_hash(load(tmp_path / "w.pth", content, checkpoint_key=raw).network) == state_hash(
                source
            )


def test_an_entry_that_does_not_fit_gives_way_to_one_that_does(tmp_path: Path, source: nn.Module) -> None:
    """Even to one that was looked at later before: under ``model`` may stand another network."""
    another = copy_state(build_network("resnet14", num_classes=3))
    content = {"model": another, "ema_model": another, "student": copy_state(source)}
    assert state_hash(load(tmp_path / "w.pth", content).network) == state_hash(source)
    with refused("other-network"):
        load(tmp_path / "w.pth", content, "wrn_10_1")
    with pytest.raises(UserError, match="=pupil; it has: model, ema_model, student"):
        load(tmp_path / "w.pth", content, checkpoint_key="pupil")


@pytest.mark.parametrize("name", ["torchvision/googlenet", "torchvision/inception_v3"])
def test_auxiliary_heads_of_a_librarys_default_are_left_out_and_said(tmp_path: Path, name: str) -> None:
    from torchvision.models import get_model

    theirs = get_model(name.partition("/")[2], weights=None, num_classes=3, init_weights=False)
    surplus = {n.partition(".")[0] for n in theirs.state_dict()} & {"aux1", "aux2", "AuxLogits"}
    assert surplus
    quick = {"init_weights": False}  # which the file replaces, and drawing takes seconds
    loaded = load(tmp_path / "w.pth", {"model": theirs.state_dict()}, name, options=quick)
    assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in loaded.network.state_dict().items())
    (note,) = loaded.notes
    assert all(part in note for part in surplus)


def test_counters_and_buffers_that_are_no_weights_are_left_out(tmp_path: Path, source: nn.Module) -> None:
    """thop's counters; and the index that older versions of Swin kept in their state dicts."""
    counted = {
        **copy_state(source),
        "total_ops": torch.zeros(1),
        "layer1.0.conv1.total_params": torch.zeros(1),
    }
    assert state_hash(load(tmp_path / "w.pth", counted).network) == state_hash(source)
    swin = build_network("timm/swin_tiny_patch4_window7_224", num_classes=3, **SWIN)
    index = "layers.0.blocks.0.attn.relative_position_index"
    assert index not in swin.state_dict()
    old = {**copy_state(swin), index: torch.zeros(4, 4, dtype=torch.int64)}
    loaded = load(tmp_path / "s.pth", old, "timm/swin_tiny_patch4_window7_224", options=SWIN)
    assert state_hash(loaded.network) == state_hash(swin)


SWIN = {
    "img_size": 8,
    "patch_size": 2,
    "window_size": 2,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 1],
}
