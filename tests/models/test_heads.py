"""Heads by kind: what they compute, how they grow, and how a network gets another."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

from gkd.core.network import Network
from gkd.core.tapped import TappedNetwork
from gkd.models import CosineHead, ProxyHead, build_network, grow, grow_head, put_head, replace_head
from gkd.models.heads import HEAD_KINDS, HeadKind, class_proxies, new_head
from tests.refusals import refused

every_kind = pytest.mark.parametrize("kind", HEAD_KINDS)


def embeddings(batch: int = 6, width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(seed))


def test_cosine_by_hand() -> None:
    head = CosineHead(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[5.0, 0.0], [3.0, 3.0]]))
        head.scale.fill_(10.0)
    logits = head(torch.tensor([[0.3, 0.4], [0.0, 0.0]]))
    torch.testing.assert_close(logits, torch.tensor([[6.0, 7 / 5 * 10 / 2**0.5], [0.0, 0.0]]))
    torch.testing.assert_close(head.cosines(torch.tensor([[0.3, 0.4]])), logits[:1] / 10)


def test_cosines_do_not_feel_lengths() -> None:
    head, rows = CosineHead(8, 3), embeddings()
    logits = head(rows)
    with torch.no_grad():
        head.weight *= torch.tensor([[2.0], [30.0], [0.4]])
    torch.testing.assert_close(head(7 * rows), logits)


def test_proxies_by_hand() -> None:
    """A class with the proxies at 0° and 90° of a sample: cosines 1 and 0, weighted by e and 1."""
    head = ProxyHead(2, 2, num_proxies=2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 4.0], [0.0, 4.0]]]))
        head.scale.fill_(3.0)
    e = torch.tensor(1.0).exp()
    expected = torch.stack([3 * e / (e + 1), torch.tensor(0.0)])
    torch.testing.assert_close(head(torch.tensor([[5.0, 0.0]]))[0], expected)


def test_one_proxy_is_a_cosine_head() -> None:
    one, cosine = ProxyHead(8, 3, num_proxies=1), CosineHead(8, 3)
    with torch.no_grad():
        cosine.weight.copy_(one.weight[:, 0])
    torch.testing.assert_close(one(embeddings()), cosine(embeddings()))


def test_frozen_rows_get_no_gradient_and_keep_their_part_in_the_others() -> None:
    free = CosineHead(8, 5)
    frozen = copy.deepcopy(free)
    frozen.num_frozen = 3
    rows, labels = embeddings().requires_grad_(), torch.arange(6) % 5
    gradients = []
    for head in (free, frozen):
        gradients.append(torch.autograd.grad(F.cross_entropy(head(rows), labels), [head.weight, rows]))
    assert gradients[0][0][:3].any()
    assert not gradients[1][0][:3].any()
    torch.testing.assert_close(gradients[1][0][3:], gradients[0][0][3:])
    torch.testing.assert_close(gradients[1][1], gradients[0][1])


@every_kind
def test_growing_keeps_the_old_logits_and_the_old_head(kind: HeadKind) -> None:
    torch.manual_seed(0)
    head = new_head(kind, 8, 3).double()
    state, rows = copy.deepcopy(head.state_dict()), embeddings().double()
    grown = grow(head, 2)
    assert type(grown) is type(head)
    assert grown.out_features == 5
    assert grown.weight.dtype == torch.float64
    logits = grown(rows)
    assert logits.shape == (6, 5)
    torch.testing.assert_close(logits[:, :3], head(rows))
    assert grown.weight[3:].abs().max() > 0
    torch.testing.assert_close(head.state_dict(), state)
    assert grown.weight.data_ptr() != head.weight.data_ptr()
    assert all(parameter.requires_grad for parameter in grown.parameters())


def test_growing_keeps_what_a_kind_was_built_with() -> None:
    cosine = grow(CosineHead(8, 3, num_frozen=2), 1)
    assert isinstance(cosine, CosineHead)
    assert cosine.num_frozen == 2
    proxy = grow(ProxyHead(8, 3, num_proxies=4), 1)
    assert proxy.weight.shape == (4, 4, 8)
    assert grow(nn.Linear(8, 3, bias=False), 1).bias is None
    frozen = nn.Linear(8, 3).requires_grad_(False)
    assert not grow(frozen, 1).weight.requires_grad


@every_kind
def test_imprinted_classes_win_on_their_means(kind: HeadKind) -> None:
    torch.manual_seed(0)
    head, means = new_head(kind, 8, 3), 50 * embeddings(2)
    given = means if kind != "proxy" else means.unsqueeze(1) + embeddings(20).view(2, 10, 8)
    grown = grow(head, 2, init="imprint", means=given)
    length = head.weight.norm(dim=-1).mean()
    torch.testing.assert_close(grown.weight[3:], length * F.normalize(given, dim=-1))
    torch.testing.assert_close(grown(means)[:, 3:].argmax(1), torch.tensor([0, 1]))
    if isinstance(grown, nn.Linear):
        assert not grown.bias[3:].any()


def test_what_cannot_grow_is_refused() -> None:
    head = CosineHead(8, 3)
    with refused("not-a-head"):
        grow(nn.Identity(), 1)
    with refused("size-out-of-range"):
        grow(head, 0)
    with refused("other-shapes"):
        grow(head, 2, init="imprint")
    with refused("other-shapes"):
        grow(ProxyHead(8, 3), 2, init="imprint", means=embeddings(2))
    with refused("zero-mean"):
        grow(head, 2, init="imprint", means=torch.zeros(2, 8))
    with refused("unknown-head"):
        new_head("cosin", 8, 3)  # type: ignore[arg-type]


def test_a_class_has_the_proxies_of_its_clusters() -> None:
    corners = torch.eye(3)[torch.arange(30) % 3]
    found = class_proxies(4 * corners, num_proxies=3)
    order = found.argmax(1)
    torch.testing.assert_close(found[order.argsort()], torch.eye(3))
    torch.testing.assert_close(found, class_proxies(4 * corners, num_proxies=3))
    with refused("too-few-images"):
        class_proxies(corners[:2])


NAMES = ["resnet8", "wrn_10_1", "vgg8", "MobileNetV2", "ShuffleV2", "ShuffleV1", "ResNet18", "mobilenet_0_25"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["cosine", "proxy"])
def test_a_network_gets_another_head_under_the_same_name(name: str, kind: HeadKind) -> None:
    network = build_network(name, num_classes=4)
    linear = set(network.state_dict())
    replace_head(network, kind)
    assert isinstance(network, Network)
    assert isinstance(network.head, CosineHead if kind == "cosine" else ProxyHead)
    head = next(path for path, module in network.named_modules() if module is network.head)
    changed = {key.removeprefix(f"{head}.") for key in set(network.state_dict()) ^ linear}
    assert changed == {"bias", "scale"}
    assert f"{head}.weight" in linear

    images = embeddings(2, 3 * 32 * 32).view(2, 3, 32, 32)
    network.eval()
    features = network.features(images)
    torch.testing.assert_close(features.logits, network.head(features.embedding))
    torch.testing.assert_close(network(images), features.logits)
    build_network(name, num_classes=4, head=kind).load_state_dict(network.state_dict())


def test_a_tapped_network_keeps_its_taps() -> None:
    torch.manual_seed(0)
    network = TappedNetwork(resnet18(num_classes=4), head="fc", maps=["layer4"]).eval()
    images = embeddings(2, 3 * 32 * 32).view(2, 3, 32, 32)
    before = network.features(images)
    grow_head(network, 3)
    after = network.features(images)
    torch.testing.assert_close(after.logits[:, :4], before.logits)
    torch.testing.assert_close(after.embedding, before.embedding)
    assert network.num_classes == 7
    assert network.state_dict()["fc.weight"].shape == (7, 512)
    replace_head(network, "cosine")
    twin = copy.deepcopy(network)
    for each in (network, twin):
        features = each.features(images)
        torch.testing.assert_close(features.embedding, before.embedding)
        torch.testing.assert_close(features.logits, each.head(features.embedding))
    state = network.state_dict()
    assert "fc.scale" in state
    build = build_network("torchvision/resnet18", num_classes=7, head="cosine")
    build.load_state_dict(state)


def test_a_network_grows_its_head() -> None:
    network = build_network("resnet8", num_classes=4, head="cosine")
    old = network.head
    grow_head(network, 2, init="imprint", means=embeddings(2, 64))
    assert network.num_classes == 6
    assert network.head is not old
    assert network.fc is network.head
    assert sum(parameter is network.head.weight for parameter in network.parameters()) == 1


def test_heads_that_do_not_fit_are_refused() -> None:
    network = build_network("resnet8", num_classes=4)
    with refused("other-embedding-dim"):
        put_head(network, CosineHead(8, 4))


@pytest.mark.parametrize("preact", [False, True])
def test_without_its_last_relu_a_resnet_points_everywhere(preact: bool) -> None:
    torch.manual_seed(0)
    with_relu, without = (build_network("resnet8", num_classes=4, last_relu=last) for last in (True, False))
    without.load_state_dict(with_relu.state_dict())
    images = embeddings(4, 3 * 32 * 32).view(4, 3, 32, 32)
    ours, theirs = (
        network.eval().features(images, preact=preact)  # type: ignore[operator]
        for network in (without, with_relu)
    )
    assert (ours.embedding < 0).any()
    assert not (theirs.embedding < 0).any()
    torch.testing.assert_close(ours.maps[2], theirs.maps[2])
    torch.testing.assert_close(theirs.maps[3], ours.maps[3].relu())
    if preact:
        torch.testing.assert_close(theirs.preact_maps[3], ours.maps[3])
        torch.testing.assert_close(ours.preact_maps[3], ours.maps[3])
    torch.testing.assert_close(ours.embedding, ours.maps[3].mean((2, 3)))
