"""Every network is cut at its maps: the stages, called one by one, are its forward pass."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gkd.core.network import StagedNetwork
from gkd.core.tapped import as_staged
from gkd.models import NETWORKS, build_network
from tests.models.test_models import FAMILIES, seeded, small_images
from tests.refusals import refused

# Smaller relatives where a network by name is slow; its stages are the same code.
NAMES = [name for name in NETWORKS if name != "wrn_28_10"] + ["wrn_10_3"]


def by_name(name: str) -> Any:
    """In eval mode, with statistics that are not their defaults, and for any size of image."""
    torch.manual_seed(0)
    options = {"pool": "mean"} if name.startswith("conv4") else {}
    network = build_network(name, num_classes=4, **options).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize("name", NAMES)
def test_the_stages_lead_from_the_images_by_the_maps_to_the_embedding(name: str) -> None:
    network = by_name(name)
    assert isinstance(network, StagedNetwork)
    assert as_staged(network, "student") is network
    stages, side = network.stages(), network.min_image_size
    for height, width in ((side, side), (side + 3, side + 8)):
        images = torch.randn(2, 3, height, width)
        with torch.no_grad():
            features = network.features(images)
            before = network.features(images, preact=True)  # the other way through the network
        assert len(stages) == len(features.maps) + 1
        images.requires_grad_()
        x = images
        for stage, expected in zip(stages, (*features.maps, features.embedding), strict=True):
            x = stage(x)
            assert torch.equal(x, expected)
        assert torch.equal(network.head(x), features.logits)
        assert torch.equal(x, before.embedding)
        (gradient,) = torch.autograd.grad(network.head(x).square().sum(), images)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_map_goes_on_from_any_stage_in_train_mode_too(family: str) -> None:
    torch.manual_seed(0)
    network = FAMILIES[family](num_classes=4).train()
    images = small_images(network)

    def cut(images: Tensor) -> Tensor:
        for stage in network.stages():
            images = stage(images)
        return network.head(images)

    start = {key: value.clone() for key, value in network.state_dict().items()}
    logits = seeded(cut, images)
    after = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(start)
    assert torch.equal(logits, seeded(network, images))
    assert all(torch.equal(value, after[key]) for key, value in network.state_dict().items())
    network.eval()
    maps = network.features(images).maps
    for number, stage in enumerate(network.stages()[1:-1]):
        assert torch.equal(stage(maps[number]), maps[number + 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_stage_refuses_images_that_do_not_fit(family: str) -> None:
    with torch.device("meta"):
        network = FAMILIES[family](num_classes=4)
        with refused("not-a-batch"):
            network.stages()[0](torch.empty(3, 64, 64))


def test_vgg_pools_a_fourth_time_by_the_side_of_the_fourth_map() -> None:
    """As by that of the image, from which the rule comes: 64 pixels."""
    with torch.device("meta"):
        network = build_network("vgg8", num_classes=4)
        stage = network.stages()[4]
        for height, width in product((16, 17, 63, 64, 65, 71, 72, 73, 128), repeat=2):
            halvings = 4 if min(height, width) >= 64 else 3
            fourth = torch.empty(1, 512, height // 8, width // 8)
            assert stage(fourth).shape[2:] == (height // 2**halvings, width // 2**halvings)
            assert network.features(torch.empty(1, 3, height, width)).maps[3].shape == fourth.shape


def test_conv4_flattens_its_last_map_in_the_last_stage() -> None:
    network = build_network("conv4_32", num_classes=4, image_size=33).eval()
    images = torch.randn(2, 3, 33, 33)
    features = network.features(images)
    assert torch.equal(network.stages()[-1](features.maps[-1]), features.embedding)
    assert features.embedding.shape == (2, 128)
