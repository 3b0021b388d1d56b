"""The CIFAR residual networks: layout, shapes, taps and numerics."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gkd.models import ResNet, build_network, count_parameters
from tests.network_helpers import Weights, assert_equals, batch_norm
from tests.refusals import refused

# 100 classes: (parameters, state-dict entries) of RepDistiller's networks
COUNTS = {
    "resnet8": (83_892, 56),
    "resnet14": (181_108, 92),
    "resnet20": (278_324, 128),
    "resnet32": (472_756, 200),
    "resnet44": (667_188, 272),
    "resnet56": (861_620, 344),
    "resnet110": (1_736_564, 668),
    "resnet8x4": (1_233_540, 62),
    "resnet32x4": (7_433_860, 206),
}


def reference(images: Tensor, weights: Weights, num_blocks: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits, maps and pre-activation maps, straight from a state dict: no module is involved."""
    x = batch_norm(F.conv2d(images, weights["conv1.weight"], padding=1), weights, "bn1").clamp(min=0)
    maps, preacts = [x], [x]
    for stage in (1, 2, 3):
        for i in range(num_blocks):
            at = f"layer{stage}.{i}"
            stride = 2 if stage > 1 and i == 0 else 1
            y = F.conv2d(x, weights[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = batch_norm(y, weights, f"{at}.bn1").clamp(min=0)
            y = batch_norm(F.conv2d(y, weights[f"{at}.conv2.weight"], padding=1), weights, f"{at}.bn2")
            if f"{at}.downsample.0.weight" in weights:
                x = F.conv2d(x, weights[f"{at}.downsample.0.weight"], stride=stride)
                x = batch_norm(x, weights, f"{at}.downsample.1")
            before = x + y
            x = before.clamp(min=0)
        maps.append(x)
        preacts.append(before)
    logits = F.linear(x.flatten(2).mean(2), weights["fc.weight"], weights["fc.bias"])
    return logits, maps, preacts


@pytest.mark.parametrize("name", COUNTS)
def test_has_the_parameters_and_entries_of_the_published_checkpoints(name: str) -> None:
    network = build_network(name, num_classes=100)
    assert (count_parameters(network), len(network.state_dict())) == COUNTS[name]


def test_keys_follow_the_fields_layout() -> None:
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    block = ["conv1.weight", *(f"bn1.{k}" for k in norm), "conv2.weight", *(f"bn2.{k}" for k in norm)]
    down = ["downsample.0.weight", *(f"downsample.1.{k}" for k in norm)]
    expected = ["conv1.weight", *(f"bn1.{k}" for k in norm)]
    expected += [f"layer1.0.{k}" for k in block]
    expected += [f"layer{stage}.0.{k}" for stage in (2, 3) for k in (*block, *down)]
    expected += ["fc.weight", "fc.bias"]
    assert list(build_network("resnet8", num_classes=5).state_dict()) == expected
    wide = build_network("resnet8x4", num_classes=5).state_dict()
    assert wide["layer1.0.downsample.0.weight"].shape == (64, 32, 1, 1)


@pytest.mark.parametrize(("name", "num_blocks"), [("resnet14", 2), ("resnet8x4", 1)])
def test_numbers_equal_a_derivation_from_the_state_dict(name: str, num_blocks: int) -> None:
    assert_equals(partial(reference, num_blocks=num_blocks), name)


def test_initialisation_is_kaiming_over_the_fan_out() -> None:
    torch.manual_seed(0)
    network = ResNet(8, (32, 64, 128, 256), num_classes=10)
    conv = network.get_submodule("layer3.0.conv2")
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert torch.equal(network.bn1.weight, torch.ones(32))
    assert torch.equal(network.bn1.bias, torch.zeros(32))


@pytest.mark.parametrize("depth", [2, 7, 18, 101])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with refused("depth-out-of-range"):
        ResNet(depth, (16, 16, 32, 64), num_classes=10)


def test_other_than_four_widths_are_refused() -> None:
    with refused("not-four-widths"):
        ResNet(8, (16, 32, 64), num_classes=10)
