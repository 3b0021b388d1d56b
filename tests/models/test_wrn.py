"""The wide residual networks: layout, taps and numerics."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gkd.models import WideResNet, build_network, count_parameters
from tests.network_helpers import Weights, assert_equals, batch_norm
from tests.refusals import refused

# 100 classes: (parameters, state-dict entries); the 28_10 parameters are torchdistill's
COUNTS = {
    "wrn_16_1": (180_916, 82),
    "wrn_16_2": (703_284, 83),
    "wrn_40_1": (569_780, 226),
    "wrn_40_2": (2_255_156, 227),
    "wrn_28_10": (36_536_884, 155),
}


def reference(images: Tensor, weights: Weights, num_blocks: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits, maps and pre-activation maps, straight from a state dict: no module is involved."""
    x = F.conv2d(images, weights["conv1.weight"], padding=1)
    maps = [x]
    for stage in (1, 2, 3):
        for i in range(num_blocks):
            at = f"block{stage}.layer.{i}"
            stride = 2 if stage > 1 and i == 0 else 1
            active = batch_norm(x, weights, f"{at}.bn1").clamp(min=0)
            y = F.conv2d(active, weights[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(
                batch_norm(y, weights, f"{at}.bn2").clamp(min=0), weights[f"{at}.conv2.weight"], padding=1
            )
            if f"{at}.convShortcut.weight" in weights:
                x = F.conv2d(active, weights[f"{at}.convShortcut.weight"], stride=stride)
            x = x + y
        maps.append(x)
    following = ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")
    preacts = [batch_norm(raw, weights, name) for raw, name in zip(maps[1:], following, strict=True)]
    pooled = preacts[-1].clamp(min=0).flatten(2).mean(2)
    return F.linear(pooled, weights["fc.weight"], weights["fc.bias"]), maps, [maps[0], *preacts]


@pytest.mark.parametrize("name", COUNTS)
def test_has_the_parameters_and_entries_of_the_published_checkpoints(name: str) -> None:
    with torch.device("meta"):
        network = build_network(name, num_classes=100)
    assert (count_parameters(network), len(network.state_dict())) == COUNTS[name]


def test_keys_follow_the_fields_layout() -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    block = [*(f"bn1.{k}" for k in norm), "conv1.weight", *(f"bn2.{k}" for k in norm), "conv2.weight"]
    expected = ["conv1.weight", *(f"block1.layer.0.{k}" for k in block)]
    expected += [f"block{stage}.layer.0.{k}" for stage in (2, 3) for k in (*block, "convShortcut.weight")]
    expected += [*(f"bn1.{k}" for k in norm), "fc.weight", "fc.bias"]
    assert list(build_network("wrn_10_1", num_classes=5).state_dict()) == expected
    wide = build_network("wrn_10_2", num_classes=5).state_dict()
    assert wide["block1.layer.0.convShortcut.weight"].shape == (32, 16, 1, 1)


@pytest.mark.parametrize(("name", "num_blocks"), [("wrn_16_1", 2), ("wrn_16_2", 2), ("wrn_10_3", 1)])
def test_numbers_equal_a_derivation_from_the_state_dict(name: str, num_blocks: int) -> None:
    assert_equals(partial(reference, num_blocks=num_blocks), name)


def test_initialisation_is_normal_over_the_fan_out_and_the_heads_bias_is_zero() -> None:
    torch.manual_seed(0)
    network = WideResNet(10, 4, num_classes=10)
    conv = network.get_submodule("block3.layer.0.conv2")
    shortcut = network.get_submodule("block3.layer.0.convShortcut")
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert shortcut.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert torch.equal(network.bn1.weight, torch.ones(256))
    assert torch.equal(network.bn1.bias, torch.zeros(256))
    assert torch.equal(network.fc.bias, torch.zeros(10))


def test_dropout_acts_in_train_mode_only_and_adds_no_entry() -> None:
    torch.manual_seed(0)
    network = WideResNet(10, 1, num_classes=5, dropout=0.5)
    plain = WideResNet(10, 1, num_classes=5)
    plain.load_state_dict(network.state_dict())
    images = torch.randn(4, 3, 16, 16)
    assert not torch.equal(network(images), network(images))
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("depth", [4, 8, 17, 39])
def test_a_depth_that_is_not_6n_plus_4_is_refused(depth: int) -> None:
    with refused("depth-out-of-range"):
        WideResNet(depth, 1, num_classes=10)


def test_a_width_below_1_is_refused() -> None:
    with refused("width-out-of-range"):
        WideResNet(10, 0, num_classes=10)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5])
def test_a_dropout_that_is_no_probability_is_refused(dropout: float) -> None:
    with refused("dropout-out-of-range"):
        WideResNet(10, 1, num_classes=10, dropout=dropout)
