"""ImageNet's residual networks with a small stem: the bottleneck, and how they start."""

import pytest
import torch
import torch.nn.functional as F

from gkd.models import ImageNetResNet
from gkd.models.resnet_imagenet import Bottleneck
from tests.network_helpers import batch_norm, fixed_images, fixed_weights
from tests.refusals import refused


@pytest.mark.parametrize("stride", [1, 2])
def test_a_bottleneck_equals_a_derivation_from_the_state_dict(stride: int) -> None:
    block = Bottleneck(3, 4, stride).double().eval()
    block.load_state_dict(fixed_weights(block.state_dict()))
    weights, images = block.state_dict(), fixed_images(3, 9)
    x = F.conv2d(images, weights["conv1.weight"])
    x = F.conv2d(
        batch_norm(x, weights, "bn1").clamp(min=0), weights["conv2.weight"], stride=stride, padding=1
    )
    x = F.conv2d(batch_norm(x, weights, "bn2").clamp(min=0), weights["conv3.weight"])
    projected = F.conv2d(images, weights["shortcut.0.weight"], stride=stride)
    before = batch_norm(x, weights, "bn3") + batch_norm(projected, weights, "shortcut.1")
    torch.testing.assert_close(block.before_relu(images), before)
    torch.testing.assert_close(block(images), before.clamp(min=0))


def test_starts_as_the_authors_code_does() -> None:
    torch.manual_seed(0)
    network = ImageNetResNet(18, num_classes=10)
    conv = network.get_submodule("layer3.0.conv1")
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)


def test_another_depth_is_refused() -> None:
    with refused("depth-out-of-range"):
        ImageNetResNet(101, num_classes=3)
