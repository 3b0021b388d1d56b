"""Weights that do not fit say why: images of other channels or size, one output for two classes, odd values."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import orthogonal, weight_norm

from gkd.core.errors import UserError
from gkd.models import build_network
from gkd.models.load import load_network
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import copy_state, save_weights
from tests.network_helpers import VIT
from tests.refusals import refused


class Pixels(nn.Module):
    """A network whose first layer reads all pixels."""

    def __init__(self, num_classes: int, in_channels: int, side: int = 4) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(in_channels * side**2, 6), nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.body(images.flatten(1)).relu())


def build(name: str, channels: int, **options: Any) -> nn.Module:
    return build_network(name, num_classes=3, in_channels=channels, **options)


@pytest.mark.parametrize(
    ("network", "theirs", "ours", "section", "setting"),
    [
        ("torchvision/resnet18", 3, 1, "student", "set data.channels=3."),
        ("resnet8", 1, 3, "student", "set data.channels=1."),
        ("resnet8", 1, 3, "", "give in_channels=1."),
        ("timm/vit_tiny_patch16_224", 3, 1, "teacher", "set data.teacher_view.channels=3."),
        ("ShuffleV2", 3, 1, "student", "set data.channels=3."),
        ("conv4_32", 4, 3, "student", "gkd reads images of 1 or 3 channels; take weights of such images."),
        (f"{__name__}:Pixels", 3, 1, "teacher", "set data.teacher_view.channels=3."),
    ],
)
def test_images_of_other_channels_are_the_cause(
    tmp_path: Path, network: str, theirs: int, ours: int, section: str, setting: str
) -> None:
    options = VIT if network.startswith("timm/") else {}
    side = 4 if network.endswith("Pixels") else 16 if options else 84 if network.startswith("conv4") else 32
    torch.save(copy_state(build(network, theirs, **options)), tmp_path / "w.pth")
    stated = {"num_classes": 3, "options": options, "image_shape": (ours, side, side), "section": section}
    with pytest.raises(UserError, match=re.escape(setting)) as caught:
        load_network(tmp_path / "w.pth", network=network, **stated)
    assert caught.value.code == "other-channels"
    assert f"images of {theirs} channel" in str(caught.value)


@pytest.mark.parametrize(
    ("network", "theirs", "ours", "sides", "section", "told"),
    [
        ("timm/vit_tiny_patch16_224", VIT, {**VIT, "img_size": 32}, (16, 32), "student", "set data.image_size=16,"),
        ("timm/vit_tiny_patch16_224", VIT, {**VIT, "img_size": 8}, (16, 8), "teacher",
         "set data.teacher_view.image_size=16,"),
        ("conv4_32", {"image_size": 84}, {"image_size": 32}, (None, 32), "student", "another size"),
        (f"{__name__}:Pixels", {"side": 8}, {"side": 4}, (8, 4), "student", "set data.image_size=8,"),
    ],
)  # fmt: skip
def test_images_of_another_size_are_the_cause(
    tmp_path: Path, network: str, theirs: Any, ours: Any, sides: Any, section: str, told: str
) -> None:
    torch.save(copy_state(build(network, 3, **theirs)), tmp_path / "w.pth")
    stated = {"num_classes": 3, "options": ours, "image_shape": (3, sides[1], sides[1]), "section": section}
    for head in ("file", "either"):  # a head on another embedding is no head of other classes
        with pytest.raises(UserError, match=re.escape(told)) as caught:
            load_network(tmp_path / "w.pth", network=network, head=head, **stated)
        assert caught.value.code == "other-image-size"
        if sides[0] is not None:
            assert f"on images of {sides[0]}×{sides[0]} pixels" in str(caught.value)


def test_the_size_that_a_file_states_is_told(tmp_path: Path) -> None:
    network = build("conv4_32", 3, image_size=84)
    header = WeightMetadata(image_shape=(3, 84, 84)).to_header()
    save_weights(tmp_path / "w.safetensors", network.state_dict(), header)
    stated = {
        "num_classes": 3,
        "options": {"image_size": 32},
        "image_shape": (3, 32, 32),
        "section": "student",
    }
    with refused("other-image-size"):
        load_network(tmp_path / "w.safetensors", network="conv4_32", **stated)


def test_one_output_for_two_classes_says_how_it_is_converted(tmp_path: Path) -> None:
    """And what the sentence says gives the sigmoid's probabilities."""
    path = tmp_path / "w.pth"
    single = build_network("resnet8", num_classes=1)
    torch.save(copy_state(single), path)
    with refused("one-output"):
        load_network(path, network="resnet8", num_classes=2)
    (note,) = load_network(path, network="resnet8", num_classes=2, head="either").notes
    assert "To keep its one output, put a column of zeros before it, in fc.weight and fc.bias" in note
    tensors = copy_state(single)
    for name in ("fc.weight", "fc.bias"):
        w = tensors[name]
        tensors[name] = torch.cat([torch.zeros_like(w), w])
    torch.save(tensors, path)
    images = torch.randn(4, 3, 8, 8)
    double = load_network(path, network="resnet8", num_classes=2).network.eval()
    chances = F.softmax(double(images), dim=1)[:, 1]
    torch.testing.assert_close(chances, torch.sigmoid(single.eval()(images))[:, 0])


@pytest.mark.parametrize(
    ("kept", "undo"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "prune.remove(module, 'weight')"),
        (weight_norm, "remove_parametrizations(module, 'weight')"),
        (orthogonal, "remove_parametrizations(module, 'weight')"),
        (torch.nn.utils.weight_norm, "remove_weight_norm(module, 'weight')"),
        (torch.nn.utils.spectral_norm, "remove_spectral_norm(module, 'weight')"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_are_kept_in_parts_say_how_they_are_put_together(
    tmp_path: Path, kept: Callable[[nn.Module], object], undo: str
) -> None:
    network = build("torchvision/resnet18", 3)
    kept(network.module.conv1)
    torch.save(network.module.state_dict(), tmp_path / "w.pth")
    with refused("weights-in-parts") as caught:
        load_network(tmp_path / "w.pth", network="torchvision/resnet18", num_classes=3)
    assert undo in str(caught.value)
    assert "'conv1.weight'" in str(caught.value)
    network = build("torchvision/resnet18", 3)
    kept(network.module.fc)  # no other head, whose classes would be new
    torch.save(network.module.state_dict(), tmp_path / "w.pth")
    with refused("weights-in-parts"):
        load_network(tmp_path / "w.pth", network="torchvision/resnet18", num_classes=3, head="either")


def test_a_file_without_a_head_and_a_quantised_one_say_so(tmp_path: Path) -> None:
    state = copy_state(build("resnet8", 3))
    torch.save({key: value for key, value in state.items() if not key.startswith("fc.")}, tmp_path / "w.pth")
    with refused("head-missing"):
        load_network(tmp_path / "w.pth", network="resnet8", num_classes=3)
    torch.save({**state, "fc._packed_params._packed_params": (state["fc.weight"], None)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="quantised") as caught:
        load_network(tmp_path / "w.pth", network="resnet8", num_classes=3)
    assert caught.value.code == "not-plain-weights"


def test_half_and_double_precision_load_as_they_did(tmp_path: Path) -> None:
    source = build_network("resnet8", num_classes=3)
    for convert in (Tensor.half, Tensor.bfloat16, Tensor.double):
        torch.save({name: convert(tensor) for name, tensor in copy_state(source).items()}, tmp_path / "w.pth")
        state = load_network(tmp_path / "w.pth", network="resnet8", num_classes=3).network.state_dict()
        for name, tensor in source.state_dict().items():
            assert state[name].dtype == tensor.dtype
            assert torch.equal(state[name], convert(tensor).to(tensor.dtype))


KINDS: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "complex": ("conv1.weight", lambda w: w.to(torch.complex64), "weights-of-another-kind"),
    "int8": ("conv1.weight", lambda w: (w * 100).to(torch.int8), "weights-of-another-kind"),
    "bool": ("bn1.weight", lambda w: w > 0, "weights-of-another-kind"),
    "int64": ("fc.bias", lambda w: w.long(), "weights-of-another-kind"),
    "float8": ("fc.weight", lambda w: w.to(torch.float8_e4m3fn), "weights-of-another-kind"),
    "bool counter": ("bn1.num_batches_tracked", lambda w: w > 0, "weights-of-another-kind"),
    "half counter": ("bn1.num_batches_tracked", lambda w: w.double() + 0.5, "weights-of-another-kind"),
    "nan": ("fc.bias", lambda w: w * torch.nan, "weights-not-finite"),
    "mean": ("bn1.running_mean", lambda w: w + torch.inf, "weights-not-finite"),
    "variance": ("bn1.running_var", lambda w: w - 2, "weights-not-finite"),
    "too large for float32": ("fc.bias", lambda w: w.double() + 1e300, "weights-not-finite"),
    "half infinite": ("fc.bias", lambda w: (w + 1e5).half(), "weights-not-finite"),
}


@pytest.mark.parametrize("form", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_values_that_are_no_weights_are_a_sentence(tmp_path: Path, kind: str, form: str) -> None:
    name, spoil, code = KINDS[kind]
    state = copy_state(build_network("resnet8", num_classes=3))
    state[name] = spoil(state[name])
    path = tmp_path / f"w.{form}"
    if form == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)  # another program's, for gkd writes no such file
    with refused(code):
        load_network(path, network="resnet8", num_classes=3)


def test_a_counter_kept_as_a_float_is_read(tmp_path: Path) -> None:
    state = copy_state(build_network("resnet8", num_classes=3))
    state["bn1.num_batches_tracked"] = torch.tensor(7.0)
    torch.save(state, tmp_path / "w.pth")
    loaded = load_network(tmp_path / "w.pth", network="resnet8", num_classes=3).network.state_dict()
    assert loaded["bn1.num_batches_tracked"].item() == 7
    assert loaded["bn1.num_batches_tracked"].dtype == torch.int64
