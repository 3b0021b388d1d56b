"""Few-shot backbones: counts, embeddings by image size, refusals, and how they start."""

from pathlib import Path

import pytest
import torch

from gkd.models import Conv4, ResNet12, build_network, count_parameters
from tests.network_helpers import load_tensors
from tests.refusals import refused


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("conv4_64", 113_088),
        ("conv4_32", 28_896),
        ("resnet12_wide", 12_424_320),
        ("resnet12_narrow", 7_996_800),
    ],
)
def test_without_its_head_each_has_the_fields_count(name: str, count: int) -> None:
    with torch.device("meta"):
        network = build_network(name, num_classes=64)
    assert count_parameters(network) - count_parameters(network.head) == count


@pytest.mark.parametrize(
    ("name", "options", "size", "dim"),
    [
        ("conv4_64", {}, 84, 1600),
        ("conv4_64", {"image_size": 32}, 32, 256),
        ("conv4_64", {"image_size": 28}, 28, 64),
        ("conv4_64", {"image_size": 224}, 224, 12544),
        ("conv4_64", {"pool": "mean"}, 28, 64),
        ("conv4_64", {"pool": "mean"}, 224, 64),
        ("conv4_32", {}, 95, 800),  # leaves 5×5 as 84 does
        ("resnet12_wide", {}, 32, 640),
        ("resnet12_wide", {"pool": "flatten"}, 84, 16000),
        ("resnet12_narrow", {"pool": "flatten"}, 84, 12800),
    ],
)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_the_embedding_follows_from_pool_and_image_size(
    name: str, options: dict[str, object], size: int, dim: int, in_channels: int
) -> None:
    with torch.device("meta"):
        network = build_network(name, num_classes=5, in_channels=in_channels, **options)
        out = network.features(torch.empty(2, in_channels, size, size))
    assert network.embedding_dim == dim
    assert out.embedding.shape == (2, dim)
    assert out.logits.shape == (2, 5)


def test_a_flattened_embedding_is_the_last_map_in_order() -> None:
    network = Conv4(4, num_classes=3, image_size=32)
    out = network.features(torch.randn(2, 3, 32, 32))
    assert torch.equal(out.embedding, out.maps[3].flatten(1))


@pytest.mark.parametrize("shape", [(32, 32), (84, 32), (96, 96)])
def test_images_of_another_size_than_the_flattened_embeddings_are_refused(shape: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = build_network("conv4_64", num_classes=5)
        images = torch.empty(2, 3, *shape)
    with refused("other-image-size"):
        network(images)


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda: Conv4(0, num_classes=3), "width-out-of-range"),
        (lambda: Conv4(8, num_classes=3, image_size=15), "image-size-out-of-range"),
        (lambda: Conv4(8, num_classes=3, pool="max"), "unknown-pool"),  # type: ignore[arg-type]
        (lambda: ResNet12((8, 8, 8), num_classes=3), "not-four-widths"),
        (lambda: ResNet12((8,) * 4, num_classes=3, drop_rate=1.0), "dropout-out-of-range"),
        (lambda: ResNet12((8,) * 4, num_classes=3, block_size=0), "block-size-out-of-range"),
    ],
)
def test_values_that_make_no_network_are_refused(build: object, code: str) -> None:
    with refused(code):
        build()  # type: ignore[operator]


def test_dropout_is_ordinary_in_the_first_two_blocks_and_dropblock_in_the_others() -> None:
    network = build_network("resnet12_narrow", num_classes=3)
    drops = [(type(layer[0].drop).__name__) for layer in network.children() if hasattr(layer, "__getitem__")]
    assert drops == ["Dropout", "Dropout", "DropBlock", "DropBlock"]
    assert network.layer1[0].drop.p == network.layer4[0].drop.rate == 0.1


def test_a_rate_of_0_trains_without_noise() -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    quiet, noisy = (ResNet12((8,) * 4, num_classes=3, drop_rate=rate) for rate in (0.0, 0.5))
    assert torch.equal(quiet(images), quiet(images))
    assert not torch.equal(noisy(images), noisy(images))
    noisy.eval()
    assert torch.equal(noisy(images), noisy(images))


def test_resnet12_starts_as_learn2learns_does() -> None:
    torch.manual_seed(0)
    network = ResNet12((16, 32, 64, 128), num_classes=3)
    assert network.layer4[0].conv2.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


def test_conv4_starts_as_learn2learns_does() -> None:
    torch.manual_seed(0)
    network = Conv4(64, num_classes=20)
    conv, norm = network.layer3[0], network.layer3[1]
    bound = (6 / (2 * 9 * 64)) ** 0.5  # Xavier-uniform
    assert conv.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert not conv.bias.any()
    assert 0 <= norm.weight.min() < 0.1
    assert 0.9 < norm.weight.max() < 1
    assert network.classifier.weight.abs().max().item() == pytest.approx((6 / 1620) ** 0.5, rel=0.01)
    assert not network.classifier.bias.any()


def test_weights_without_dropblocks_count_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, other = (build_network("resnet12_narrow", num_classes=3) for _ in range(2))
    old = {key: value for key, value in network.state_dict().items() if ".drop." not in key}
    assert len(old) == len(network.state_dict()) - 2
    load_tensors(other, old, "resnet12_narrow", tmp_path)
    assert torch.equal(other.layer4[0].conv3.weight, network.layer4[0].conv3.weight)
