"""Any nn.Module as a gkd network, by module paths."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from gkd.core.batch import Batch
from gkd.core.network import Features, Network, StagedNetwork
from gkd.core.tapped import Tap, TappedNetwork, as_staged, output_shapes
from gkd.methods.spots import output_at
from gkd.models import build_network
from tests.network_helpers import Behind
from tests.refusals import refused

LAYERS = ("layer1", "layer2", "layer3", "layer4")
STAGES = (("conv1", "bn1", "relu", "maxpool", "layer1"), *((layer,) for layer in LAYERS[1:]), ("avgpool",))


@pytest.fixture
def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None, num_classes=5).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_tapped_network_satisfies_the_protocol(resnet18: nn.Module, images: Tensor) -> None:
    network = TappedNetwork(resnet18, head="fc", maps=LAYERS)
    assert isinstance(network, Network)
    assert (network.num_classes, network.embedding_dim, network.head) == (5, 512, resnet18.fc)
    with torch.no_grad():
        features = network.features(images)
        assert torch.equal(features.logits, resnet18(images))
        assert torch.equal(features.logits, network(images))
        assert torch.equal(features.logits, resnet18.fc(features.embedding))  # the head's input
    assert [tuple(values.shape) for values in features.maps] == [
        (2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 4, 4), (2, 512, 2, 2)
    ]  # fmt: skip
    assert torch.allclose(features.maps[-1].mean(dim=(2, 3)), features.embedding, atol=1e-6)


def test_a_named_embedding_is_averaged_over_space(resnet18: nn.Module, images: Tensor) -> None:
    network = TappedNetwork(resnet18, head="fc", maps=("layer4",), embedding="layer4")
    with torch.no_grad():
        features = network.features(images)
    assert torch.equal(features.embedding, features.maps[0].mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("paths", "code"),
    [
        ({"head": "fcc"}, "unknown-module-path"),
        ({"head": "fc", "maps": ("layer5",)}, "unknown-module-path"),
        ({"head": "fc", "embedding": "avgpol"}, "unknown-module-path"),
        ({"head": "layer4"}, "not-a-linear-layer"),
    ],
)
def test_a_wrong_path_is_named(resnet18: nn.Module, paths: dict[str, str], code: str) -> None:
    with refused(code):
        TappedNetwork(resnet18, **paths)


@pytest.mark.parametrize("method", ["features", "__call__"])
def test_no_activation_outlives_its_features(resnet18: nn.Module, images: Tensor, method: str) -> None:
    network = TappedNetwork(resnet18, head="fc", maps=LAYERS)
    seen: list[weakref.ref[Tensor]] = []
    handle = resnet18.layer2.register_forward_hook(lambda *args: seen.append(weakref.ref(args[-1])))
    with torch.no_grad():
        result = getattr(network, method)(images)
    handle.remove()
    del result
    gc.collect()
    assert [reference() for reference in seen] == [None]


def test_a_deep_copy_taps_itself(resnet18: nn.Module, images: Tensor) -> None:
    network = TappedNetwork(resnet18, head="fc", maps=("layer4",))
    twin = copy.deepcopy(network)
    with torch.no_grad():
        assert torch.equal(twin.features(images).maps[0], network.features(images).maps[0])


def test_one_graph_under_compile(resnet18: nn.Module, images: Tensor) -> None:
    network = TappedNetwork(resnet18, head="fc", maps=LAYERS)
    compiled = torch.compile(network.features, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images).maps, network.features(images).maps)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_layout_becomes_a_map(mode: Any) -> None:
    images = torch.zeros(2, 1, 8, 16)
    with mode():
        tokens = torch.arange(2 * 18 * 3.0).view(2, 18, 3)  # two prefix tokens, then 2 x 8 or 4 x 4
        values = Tap("t", prefix_tokens=10).as_map(tokens, images)
        assert values.shape == (2, 3, 2, 4)  # rows and columns in the image's proportions
        assert torch.equal(values[1, :, 1, 2], tokens[1, 10 + 4 + 2])
        square = Tap("t").as_map(tokens[:, :17], torch.zeros(2, 1, 8, 8))  # one prefix token leaves 4 x 4
        assert torch.equal(square[0, :, 3, 1], tokens[0, 1 + 13])
        grid = torch.randn(2, 4, 5, 3)
        assert torch.equal(Tap("t", "nhwc").as_map(grid, images)[1, 2], grid[1, :, :, 2])
        assert Tap("t").as_map(grid, images) is grid
        same = torch.zeros(2, 4, 3, 4)  # either may be the channels
        assert Tap("t", channels=4).as_map(same, images) is same


@pytest.mark.parametrize(
    ("tap", "shape", "code"),
    [
        (Tap("t"), (2, 5), "not-a-map"),
        (Tap("t", "tokens"), (2, 3, 4, 4), "not-a-map"),
        (Tap("t", channels=3), (2, 4, 4, 3), "channels-last"),
        (
            Tap("t", prefix_tokens=2),
            (2, 17, 3),
            "not-a-grid",
        ),
    ],
)
def test_an_output_that_is_no_map_is_refused(tap: Tap, shape: tuple[int, ...], code: str) -> None:
    with refused(code):
        tap.as_map(torch.zeros(shape), torch.zeros(2, 1, 8, 8))


class Awkward(nn.Module):
    """Modules that cannot be tapped as they are: one overwritten, one never called, one with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Conv2d(3, 4, 1)
        self.pool = nn.AdaptiveMaxPool2d(1, return_indices=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.relu(self.conv(images)))[0].flatten(1))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("conv", "tap-overwritten"),
        ("unused", "tap-not-called"),
        ("pool", "not-a-tensor"),
    ],
)
def test_a_module_that_cannot_be_tapped_is_said(path: str, code: str) -> None:
    images = torch.zeros(2, 3, 8, 8)
    with refused(code):
        TappedNetwork(Awkward(), head="fc", maps=[path]).features(images)
    assert TappedNetwork(Awkward(), head="fc", maps=["relu"]).features(images).maps[0].shape == (2, 4, 8, 8)


def test_declared_stages_lead_by_the_maps_to_the_embedding(resnet18: nn.Module, images: Tensor) -> None:
    network = TappedNetwork(resnet18, head="fc", maps=LAYERS, stages=STAGES)
    assert isinstance(network, StagedNetwork)
    assert as_staged(network, "student") is network
    features = network.features(images)
    x = images.clone().requires_grad_()
    start = x
    for stage, expected in zip(network.stages(), (*features.maps, features.embedding), strict=True):
        x = stage(x)
        assert torch.equal(x, expected)
    assert torch.equal(network.head(x), features.logits)
    (gradient,) = torch.autograd.grad(x.square().sum(), start)
    assert gradient.abs().sum() > 0


def test_stages_and_head_keep_nothing_and_leave_the_taps_alone(resnet18: nn.Module, images: Tensor) -> None:
    network = TappedNetwork(resnet18, head="fc", maps=LAYERS, stages=STAGES)
    expected = network.features(images)
    x, seen = torch.zeros(2, 3, 64, 64), []
    for part in (*network.stages(), network.head):
        x = part(x)
        seen.append(weakref.ref(x))
    del x
    gc.collect()
    assert [reference() for reference in seen] == [None] * len(seen)
    found = network.features(images)
    for ours, theirs in zip((found.logits, *found.maps), (expected.logits, *expected.maps), strict=True):
        assert torch.equal(ours, theirs)


def test_a_pass_that_fails_keeps_nothing(resnet18: nn.Module, images: Tensor) -> None:
    network = TappedNetwork(resnet18, head="fc", maps=("layer1", "fc"))
    with refused("not-a-map"):
        network.features(images)
    assert not network._taps
    network.head(torch.zeros(1, 512))
    assert not network._taps


def test_a_deep_copy_is_cut_into_its_own_modules(resnet18: nn.Module, images: Tensor) -> None:
    network = TappedNetwork(resnet18, head="fc", maps=LAYERS, stages=STAGES)
    twin = copy.deepcopy(network)
    expected = network.features(images).maps[0]
    for parameter in network.parameters():
        parameter.data.zero_()
    assert torch.equal(twin.stages()[0](images), expected)


def test_the_last_stage_flattens_where_that_fits_the_head_and_else_averages() -> None:
    images = torch.randn(2, 3, 4, 4)
    for head, expected in ((nn.Linear(5, 2), (2, 5)), (nn.Linear(80, 2), (2, 80))):
        module = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), head)
        network = TappedNetwork(module, head="2", maps=["0"], stages=[["0"], []])
        first, last = network.stages()
        assert last(first(images)).shape == expected


@pytest.mark.parametrize(
    ("maps", "stages", "code"),
    [
        (
            LAYERS,
            STAGES[:-1],
            "wrong-number-of-stages",
        ),
        (LAYERS, (*STAGES[:-1], ("avgpol",)), "unknown-module-path"),
        ((Tap("layer1", "nhwc"),), ((), ()), "needs-nchw-maps"),
        (
            (Tap("layer1", "tokens"),),
            ((), ()),
            "needs-nchw-maps",
        ),
    ],
)
def test_stages_that_do_not_fit_the_maps_are_refused(
    resnet18: nn.Module, maps: Any, stages: Any, code: str
) -> None:
    with refused(code):
        TappedNetwork(resnet18, head="fc", maps=maps, stages=stages)


def test_a_network_that_is_not_cut_is_told_how(resnet18: nn.Module) -> None:
    network = TappedNetwork(resnet18, head="fc", maps=LAYERS)
    with refused("stages-missing"):
        network.stages()
    for side, module in (("teacher", network), ("student", resnet18)):
        with refused("stages-missing"):
            as_staged(module, side)


def test_an_output_that_is_no_logits_is_said() -> None:
    network = TappedNetwork(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Linear(8, 2)), head="1")
    with refused("not-a-classifier"):
        network(torch.zeros(1, 3, 8, 8))


def test_detached_features_leave_the_graph() -> None:
    values = torch.ones(2, 3, requires_grad=True) * 2
    features = Features(values, values, (values[:, :, None, None],)).detach()
    assert not any(t.requires_grad for t in (features.logits, features.embedding, *features.maps))
    assert torch.equal(features.logits, values)


def test_the_teacher_sees_the_view_where_there_is_one() -> None:
    images, view = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    assert Batch(images, torch.zeros(1), torch.zeros(1)).teacher_images is images
    assert Batch(images, torch.zeros(1), torch.zeros(1), view).teacher_images is view


@pytest.mark.parametrize(
    ("paths", "code"),
    [
        (("unused", "relu"), "tap-not-called"),
        (("conv", "relu"), "tap-overwritten"),
        (("pool", "relu"), "not-a-tensor"),
    ],
)
def test_a_default_tap_that_gives_no_map_is_left_out_until_a_term_asks(
    paths: tuple[str, ...], code: str
) -> None:
    images = torch.zeros(2, 3, 4, 4)
    with refused(code):
        TappedNetwork(Awkward(), head="fc", maps=paths).features(images)
    network = TappedNetwork(Awkward(), head="fc", maps=paths, lenient=True)
    features = network.features(images)
    assert features.logits.shape == (2, 2)
    assert [tuple(values.shape) for values in features.maps] == [(0,), (2, 4, 4, 4)]
    shapes = output_shapes(network, (3, 4, 4))
    assert output_at(shapes, 1) == output_at(shapes, -1) == (4, 4, 4)  # the others keep their numbers
    for asked in (shapes, features):
        with refused("no-map"):
            output_at(asked, 0)
    with refused("no-map"):
        output_at(shapes, -2)


class ThreeTokens(nn.Module):
    """Three tokens ``[B, 3, 4]`` of any image, which make a grid only where it is three times as wide as it is high."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(2))
        self.fc = nn.Linear(12, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.tokens(images).flatten(1))


def test_a_map_that_one_shape_of_images_leaves_out_is_there_for_another() -> None:
    network = TappedNetwork(ThreeTokens(), head="fc", maps=(Tap("tokens", prefix_tokens=0),), lenient=True)
    with refused("no-map"):
        output_at(output_shapes(network, (3, 4, 4)), 0)
    assert output_at(output_shapes(network, (3, 2, 6)), 0) == (4, 1, 3)


def test_stages_need_every_map_also_of_the_defaults() -> None:
    stages = (("conv", "relu"), (), ("pool",))
    network = TappedNetwork(Awkward(), head="fc", maps=("relu", "unused"), stages=stages, lenient=True)
    with refused("tap-not-called"):
        network.features(torch.zeros(2, 3, 4, 4))


def test_a_head_that_is_not_called_has_no_input_to_tap() -> None:
    network = TappedNetwork(Behind("function"), head="fc")
    with refused("head-not-called"):
        network.features(torch.zeros(2, 1, 4, 4))
    named = TappedNetwork(Behind("function"), head="fc", embedding="conv")
    assert named.features(torch.zeros(2, 1, 4, 4)).embedding.shape == (2, 4)


def test_the_embedding_of_a_head_over_tokens_is_their_mean() -> None:
    network = TappedNetwork(Behind("tokens"), head="fc").eval()
    features = network.features(torch.randn(2, 1, 4, 4))
    assert features.embedding.shape == (2, 4)
    torch.testing.assert_close(network.head(features.embedding), features.logits)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18", "torchvision/mobilenet_v2"])
def test_the_pooled_map_of_a_fresh_library_network_is_found(name: str) -> None:
    """Without biases it makes zeros of zeros, which say nothing."""
    shapes = output_shapes(build_network(name, num_classes=5), (3, 64, 64))
    assert shapes.pooled == shapes.maps[-1]


def test_a_last_map_that_is_averaged_into_the_embedding_is_found(resnet18: nn.Module, images: Tensor) -> None:
    network = TappedNetwork(resnet18, head="fc", maps=LAYERS).train()
    assert network.features(images).pooled_map is None  # it was not looked at in eval mode
    assert output_shapes(TappedNetwork(resnet18, head="fc", maps=LAYERS[:3]), (3, 64, 64)).pooled is None
    network.eval()
    features = network.features(images)
    assert features.pooled_map is features.maps[-1]
    assert network.train().features(images).pooled_map is not None
    assert output_shapes(network, (3, 64, 64)).pooled == (512, 2, 2)
    widened = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1))
    other = nn.Sequential(widened, nn.Flatten(), nn.Linear(4, 5))
    assert output_shapes(TappedNetwork(other, head="2", maps=["0.1"]), (3, 8, 8)).pooled is None
