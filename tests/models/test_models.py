"""What every network by name keeps: its contract with losses, and build_network's errors."""

import pytest
import torch
from torch import nn

from gkd.errors import UserError
from gkd.features import Network
from gkd.models import NETWORKS, build_network, count_parameters, network_names

# one of each shape of block; the deeper ones repeat them
SMALL = ["resnet8", "resnet14", "resnet8x4", "wrn_10_1", "wrn_16_2"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_name_builds_a_network(name: str) -> None:
    with torch.device("meta"):  # shapes only: wrn_28_10 would take seconds to initialise
        network = build_network(name, num_classes=11, in_channels=1)
        out = network.features(torch.empty(2, 1, 32, 32))
    assert isinstance(network, Network)
    assert (network.num_classes, network.in_channels) == (11, 1)
    assert isinstance(network.head, nn.Linear)
    assert network.head.in_features == network.embedding_dim
    assert out.logits.shape == (2, 11)
    assert out.embedding.shape == (2, network.embedding_dim)


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("resnet20", (16, 16, 32, 64)),
        ("resnet8x4", (32, 64, 128, 256)),
        ("wrn_16_1", (16, 16, 32, 64)),
        ("wrn_40_2", (16, 32, 64, 128)),
    ],
)
def test_feature_shapes_at_32_pixels(name: str, widths: tuple[int, ...]) -> None:
    network = build_network(name, num_classes=5).eval()
    expected = [(2, width, size, size) for width, size in zip(widths, (32, 32, 16, 8), strict=True)]
    for preact in (False, True):
        out = network.features(torch.randn(2, 3, 32, 32), preact=preact)
        assert [tuple(m.shape) for m in out.maps] == expected
        assert out.embedding.shape == (2, widths[-1])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_any_size_keeps_the_batch(name: str, in_channels: int, size: int) -> None:
    network = build_network(name, num_classes=4, in_channels=in_channels).eval()
    images = torch.randn(3, in_channels, size, size)
    logits = network(images)
    assert logits.shape == (3, 4)
    # each row depends on its own image alone
    torch.testing.assert_close(logits[1:2], network(images[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_images_need_not_be_square_and_a_batch_of_one_trains(name: str) -> None:
    network = build_network(name, num_classes=4).train()
    assert network(torch.randn(1, 3, 8, 8)).isfinite().all()
    assert network(torch.randn(2, 3, 9, 31)).shape == (2, 4)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("preact", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_features_logits_equal_forward_and_the_head_of_the_embedding(
    name: str, preact: bool, train: bool
) -> None:
    torch.manual_seed(0)
    network = build_network(name, num_classes=4).train(train)
    images = torch.randn(4, 3, 16, 16)
    out = network.features(images, preact=preact)
    assert torch.equal(out.logits, network(images))
    assert torch.equal(out.logits, network.head(out.embedding))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("preact", [False, True])
def test_one_forward_updates_the_running_statistics_once(name: str, preact: bool) -> None:
    torch.manual_seed(0)
    network = build_network(name, num_classes=4)
    twin = build_network(name, num_classes=4)
    twin.load_state_dict(network.state_dict())
    images = torch.randn(4, 3, 16, 16)
    network.train().features(images, preact=preact)
    twin.train()(images)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [int(norm.num_batches_tracked) for norm in norms] == [1] * len(norms)
    for ours, plain in zip(network.buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("name", SMALL)
def test_preact_replaces_the_stages_maps_and_not_the_stem(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, num_classes=4).eval()
    images = torch.randn(4, 3, 16, 16)
    after, before = network.features(images), network.features(images, preact=True)
    assert torch.equal(after.maps[0], before.maps[0])
    for tapped, plain in zip(before.maps[1:], after.maps[1:], strict=True):
        assert (tapped < 0).any()  # no later ReLU wrote into the tap
        if name.startswith("resnet"):
            assert torch.equal(tapped.relu(), plain)
    assert torch.equal(after.embedding, before.embedding)
    if name.startswith("wrn"):
        pooled = before.maps[3].relu().mean(dim=(2, 3))
        torch.testing.assert_close(pooled, after.embedding)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("preact", [False, True])
def test_maps_and_embedding_carry_gradients(name: str, preact: bool) -> None:
    network = build_network(name, num_classes=4).train()
    out = network.features(torch.randn(4, 3, 16, 16), preact=preact)
    taps = (*out.maps, out.embedding)
    gradients = torch.autograd.grad(out.logits.square().sum(), taps)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_2"])
def test_channels_last_is_kept_and_changes_no_number(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, num_classes=4).eval()
    images = torch.randn(4, 3, 16, 16)
    expected = network.features(images, preact=True)
    network.to(memory_format=torch.channels_last)
    out = network.features(images.contiguous(memory_format=torch.channels_last), preact=True)
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in out.maps)
    torch.testing.assert_close(out.logits, expected.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_2"])
@pytest.mark.parametrize("train", [False, True])
def test_one_graph_under_compile(name: str, train: bool) -> None:
    network = build_network(name, num_classes=4).train(train)
    images = torch.randn(2, 3, 16, 16)
    logits = torch.compile(network, backend="eager", fullgraph=True)(images)
    torch.testing.assert_close(logits, network(images))
    features = torch.compile(network.features, backend="eager", fullgraph=True)
    torch.testing.assert_close(features(images, preact=True).logits, logits)


@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 7, 7), r"7×7 pixels are too small.*at least 8"),
        ((2, 3, 32, 4), r"32×4 pixels are too small.*at least 8"),
        ((2, 1, 32, 32), r"1 channels and the network was built for 3.*in_channels=1"),
        ((3, 32, 32), r"\[3, 32, 32\]; give a batch"),
    ],
)
def test_images_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    network = build_network(name, num_classes=4)
    for call in (network, network.features):
        with pytest.raises(UserError, match=message):
            call(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_20", r"Unknown network 'resnet_20'\. Did you mean 'resnet20'\? Allowed: .*resnet8x4"),
        ("WRN_40_2", r"Did you mean 'wrn_40_2'\? Allowed: .*wrn_\{depth\}_\{width\}"),
        ("wrn_16_0", "Unknown network"),
        ("wrn_16_02", "Unknown network"),
        ("wrn_17_2", "depth 17.*6n \\+ 4.*Use wrn_16_2 or wrn_22_2"),
        ("wrn_4_1", "depth 4.*Use wrn_10_1 or wrn_16_1"),
    ],
)
def test_an_unknown_name_says_what_is_allowed(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network(name, num_classes=4)


@pytest.mark.parametrize(("num_classes", "in_channels"), [(0, 3), (10, 0)])
def test_counts_below_1_are_refused(num_classes: int, in_channels: int) -> None:
    with pytest.raises(UserError, match="1 or more"):
        build_network("resnet8", num_classes=num_classes, in_channels=in_channels)


def test_names_for_display_end_with_the_wide_networks_pattern() -> None:
    *names, pattern = network_names()
    assert names == list(NETWORKS)
    assert {"resnet20", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2", "wrn_28_10"} <= set(names)
    assert "6n + 4" in pattern


def test_frozen_parameters_count() -> None:
    assert count_parameters(nn.Linear(3, 2).requires_grad_(False)) == 8
