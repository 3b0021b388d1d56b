"""What every network keeps: its contract with losses, for any image that it claims."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gkd.core.network import Network
from gkd.models import NETWORKS, Conv4, ResNet12, build_network
from gkd.models.layers import shuffle
from tests.network_helpers import fixed_images, fixed_weights
from tests.refusals import refused

# One of each shape of block; the deeper and wider ones repeat them. Few-shot networks by their class, thin and for
# any size: by name theirs are slow on a CPU, or for one size.
FAMILIES: dict[str, Callable[..., Any]] = {
    **{
        name: lambda name=name, **options: build_network(name, **options)
        for name in (
            "resnet8",
            "resnet14",
            "resnet8x4",
            "wrn_10_1",
            "wrn_16_2",
            "ResNet18",
            "vgg8",
            "MobileNetV2",
            "ShuffleV1",
            "ShuffleV2",
            "mobilenet_0_25",
        )
    },
    "conv4": lambda **options: Conv4(16, pool="mean", **options),
    "resnet12": lambda **options: ResNet12((8, 8, 16, 16), **options),
}

# family -> how often each map halves the image, and whether sizes round up
HALVINGS = {
    "resnet": ((0, 0, 1, 2), True),
    "wrn": ((0, 0, 1, 2), True),
    "ResNet": ((0, 0, 1, 2, 3), True),
    "MobileNetV2": ((1, 1, 2, 3, 4), True),
    "Shuffle": ((0, 1, 2, 3), True),
    "mobilenet": ((1, 2, 3, 4, 5), True),
    "conv4": ((1, 2, 3, 4), False),
    "resnet12": ((1, 2, 3, 4), False),
}

# family -> from the map before the last ReLU to the map
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "resnet": F.relu,
    "ResNet": F.relu,
    "vgg": F.relu,
    "MobileNetV2": lambda before: before,  # its stages end in no ReLU
    "ShuffleV1": F.relu,
    "ShuffleV2": lambda before: shuffle(F.relu(before), 2),
    "mobilenet": F.relu,
    "conv4": F.relu,
    "resnet12": lambda before: F.leaky_relu(before, 0.1),
}


def of_family(table: dict[str, Any], name: str) -> Any:
    """The entry of the longest family that the name begins with."""
    return table[max((family for family in table if name.startswith(family)), key=len)]


def small_images(network: nn.Module) -> torch.Tensor:
    """Four of the smallest that leave a last map of 2×2."""
    pools = isinstance(network, Conv4 | ResNet12)  # behind the last BatchNorm too
    size = 32 if pools else max(16, network.min_image_size)
    return torch.randn(4, network.in_channels, size, size)


def seeded(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """One call with dropout's draws fixed."""
    torch.manual_seed(1)
    return call(*arguments, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_name_builds_a_network(name: str) -> None:
    with torch.device("meta"):
        network = build_network(name, num_classes=11, in_channels=1)
        size = 84 if name.startswith("conv4") else max(32, network.min_image_size)
        out = network.features(torch.empty(2, 1, size, size))
    assert isinstance(network, Network)
    assert (network.num_classes, network.in_channels) == (11, 1)
    assert isinstance(network.head, nn.Linear)
    assert network.head.in_features == network.embedding_dim
    assert out.logits.shape == (2, 11)
    assert out.embedding.shape == (2, network.embedding_dim)


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_have_the_documented_size_for_any_image(family: str) -> None:
    with torch.device("meta"):
        network = FAMILIES[family](num_classes=4)
    for size in (28, 32, 64, 84, 224):
        out = network.features(torch.empty(2, 3, size, size + 3, device="meta"))
        if family == "vgg8":
            halvings, up = (0, 1, 2, 3, 4 if size >= 64 else 3), False
        else:
            halvings, up = of_family(HALVINGS, family)
        rounded = math.ceil if up else math.floor
        expected = [tuple(rounded(side / 2**count) for side in (size, size + 3)) for count in halvings]
        assert [tuple(m.shape[2:]) for m in out.maps] == expected
        assert out.logits.shape == (2, 4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("size", "in_channels"),
    [
        (None, 1),
        *(
            pytest.param(size, channels, marks=pytest.mark.full)
            for size in (28, 32, 64, 84, 224)
            for channels in (1, 3)
        ),
    ],
)
def test_each_row_depends_on_its_own_image_alone(family: str, size: int | None, in_channels: int) -> None:
    network = FAMILIES[family](num_classes=4, in_channels=in_channels).double().eval()
    network.load_state_dict(
        fixed_weights(network.state_dict())
    )  # fresh ones let a deep signal fade in eval mode
    images = fixed_images(in_channels, max(network.min_image_size, size or 0))
    with torch.no_grad():
        logits = network(images)
        alone = network(images[1:])
    assert logits.shape == (2, 4)
    torch.testing.assert_close(logits[1:], alone)
    assert (logits[:1] - alone).abs().max() > 1e-3 * alone.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_images_need_not_be_square_and_a_batch_of_one_trains_at_the_smallest_size(family: str) -> None:
    network = FAMILIES[family](num_classes=4).train()
    size = network.min_image_size
    alone = (
        33 if family.startswith("mobilenet_") else size
    )  # below, BatchNorm has one value a channel at B = 1
    assert network(torch.randn(1, 3, alone, alone)).isfinite().all()
    assert network(torch.randn(2, 3, size, size)).isfinite().all()
    assert network(torch.randn(2, 3, size + 1, size + 9)).shape == (2, 4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preact", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_features_logits_equal_forward_and_the_head_of_the_embedding(
    family: str, preact: bool, train: bool
) -> None:
    torch.manual_seed(0)
    network = FAMILIES[family](num_classes=4).train(train)
    images = small_images(network)
    out = seeded(network.features, images, preact=preact)
    assert torch.equal(out.logits, seeded(network, images))
    assert torch.equal(out.logits, network.head(out.embedding))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preact", [False, True])
def test_one_forward_updates_the_running_statistics_once(family: str, preact: bool) -> None:
    torch.manual_seed(0)
    network = FAMILIES[family](num_classes=4)
    twin = FAMILIES[family](num_classes=4)
    twin.load_state_dict(network.state_dict())
    images = small_images(network)
    seeded(network.train().features, images, preact=preact)
    seeded(twin.train(), images)
    counts = [value for key, value in network.named_buffers() if key.endswith("num_batches_tracked")]
    assert [int(count) for count in counts] == [1] * len(counts)
    for ours, plain in zip(network.buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("train", [False, True])
def test_preact_gives_the_maps_before_their_activation(family: str, train: bool) -> None:
    torch.manual_seed(0)
    network = FAMILIES[family](num_classes=4).train(train)
    images = small_images(network)
    after, before = seeded(network.features, images), seeded(network.features, images, preact=True)
    torch.testing.assert_close(after.embedding, before.embedding)
    assert after.preact_maps == ()
    for asked, plain in zip(before.maps, after.maps, strict=True):
        torch.testing.assert_close(asked, plain)
    first = 0 if family in ("conv4", "resnet12") else 1  # these have no stem of their own
    for index, (tapped, plain) in enumerate(zip(before.preact_maps, after.maps, strict=True)):
        if index < first:
            assert torch.equal(tapped, plain)
            continue
        assert (tapped < 0).any()  # no later ReLU wrote into the tap
        if not family.startswith("wrn"):
            torch.testing.assert_close(of_family(ACTIVATIONS, family)(tapped), plain)
    if family.startswith("wrn"):
        torch.testing.assert_close(before.preact_maps[3].relu().mean(dim=(2, 3)), after.embedding)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preact", [False, True])
def test_maps_and_embedding_carry_gradients(family: str, preact: bool) -> None:
    network = FAMILIES[family](num_classes=4).train()
    out = network.features(small_images(network), preact=preact)
    taps = [*out.maps, *out.preact_maps, out.embedding]
    if family == "ShuffleV2" and preact:
        # as in the authors' code the tap is beside the path: what is kept and what is computed, side by side
        assert all(tap.requires_grad for tap in taps)
        taps = [*out.maps, out.embedding]
    gradients = torch.autograd.grad(out.logits.square().sum(), taps)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_reaches_every_parameter(family: str) -> None:
    torch.manual_seed(0)
    network = FAMILIES[family](num_classes=4).eval()  # in train mode BatchNorm cancels a bias before it
    network(small_images(network)).square().sum().backward()
    without = [
        name
        for name, value in network.named_parameters()
        if value.grad is None or not value.grad.abs().sum() > 0
    ]
    assert without == []


@pytest.mark.parametrize("family", ["resnet8", "wrn_16_2", "vgg8", "ShuffleV1", "ShuffleV2", "resnet12"])
def test_channels_last_is_kept_and_changes_no_number(family: str) -> None:
    torch.manual_seed(0)
    network = FAMILIES[family](num_classes=4).eval()
    images = torch.randn(4, 3, 16, 16)
    expected = network.features(images, preact=True)
    network.to(memory_format=torch.channels_last)
    out = network.features(images.contiguous(memory_format=torch.channels_last), preact=True)
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in (*out.maps, *out.preact_maps))
    torch.testing.assert_close(out.logits, expected.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["resnet8", "wrn_16_2", pytest.param("resnet12", marks=pytest.mark.full)])
@pytest.mark.parametrize("train", [False, True])
def test_one_graph_under_compile(family: str, train: bool) -> None:
    network = FAMILIES[family](num_classes=4).train(train)
    images = torch.randn(2, 3, 16, 16)
    logits = seeded(torch.compile(network, backend="eager", fullgraph=True), images)
    torch.testing.assert_close(logits, seeded(network, images))
    features = torch.compile(network.features, backend="eager", fullgraph=True)
    torch.testing.assert_close(seeded(features, images, preact=True).logits, logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((2, 3, 1, 1), "images-too-small"),
        ((2, 3, 64, -1), "images-too-small"),
        ((2, 1, 64, 64), "other-channels"),
        ((3, 64, 64), "not-a-batch"),
    ],
)
def test_images_that_do_not_fit_are_refused(family: str, shape: tuple[int, ...], code: str) -> None:
    with torch.device("meta"):
        network = FAMILIES[family](num_classes=4)
    smallest = network.min_image_size
    images = torch.zeros([side if side > 0 else smallest - 1 for side in shape], device="meta")
    for call in (network, network.features):
        with refused(code):
            call(images)


@pytest.mark.parametrize("preact", [False, True])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("conv4", "resnet12")])
def test_the_embedding_is_the_mean_of_the_pooled_map(name: str, preact: bool) -> None:
    network = FAMILIES[name](num_classes=5).train()
    features = network.features(small_images(network), preact=preact)
    assert features.pooled_map is not None
    assert torch.equal(features.pooled_map.mean((2, 3)), features.embedding)
    torch.testing.assert_close(network.head(features.pooled_map.mean((2, 3))), features.logits)
