"""Any nn.Module as a gkd network, by module paths."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
import torchvision
from torch import Tensor, nn

from gkd.errors import UserError
from gkd.features import Batch, Features, Network, TappedNetwork

LAYERS = ("layer1", "layer2", "layer3", "layer4")


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
    ("paths", "message"),
    [
        ({"head": "fcc"}, r"Unknown module path 'fcc'. Did you mean 'fc'\?"),
        ({"head": "fc", "maps": ("layer5",)}, r"Unknown module path 'layer5'. Did you mean 'layer\d'\?"),
        ({"head": "fc", "embedding": "avgpol"}, r"Did you mean 'avgpool'\?"),
        ({"head": "layer4"}, "The head 'layer4' is a Sequential; name the path of the last nn.Linear"),
    ],
)
def test_a_wrong_path_is_named(resnet18: nn.Module, paths: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
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


def test_detached_features_leave_the_graph() -> None:
    values = torch.ones(2, 3, requires_grad=True) * 2
    features = Features(values, values, (values[:, :, None, None],)).detach()
    assert not any(t.requires_grad for t in (features.logits, features.embedding, *features.maps))
    assert torch.equal(features.logits, values)


def test_the_teacher_sees_the_view_where_there_is_one() -> None:
    images, view = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    assert Batch(images, torch.zeros(1), torch.zeros(1)).teacher_images is images
    assert Batch(images, torch.zeros(1), torch.zeros(1), view).teacher_images is view
