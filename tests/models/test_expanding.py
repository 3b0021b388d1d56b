"""Networks of several extractors: what a new one adds, what the frozen ones keep, what cannot be expanded."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gkd.core.network import Network, StagedNetwork
from gkd.core.tapped import TappedNetwork, output_shapes
from gkd.models import (
    AuxiliaryHead,
    ExpandedNetwork,
    build_network,
    check_network_options,
    count_parameters,
    expand,
    frozen_parameters,
    grow_head,
    newest_dim,
    newest_part,
    num_extractors,
)
from tests.refusals import refused

NAMES = [
    "resnet8",
    "wrn_10_1",
    "vgg8",
    "MobileNetV2",
    "ShuffleV2",
    "ResNet18",
    "resnet12_narrow",
    "torchvision/resnet18",
]


def images(count: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def twice_expanded(**options: Any) -> ExpandedNetwork:
    """4 classes, then 2 and 3; the extractors are made unlike."""
    torch.manual_seed(0)
    network: nn.Module = build_network("resnet8", num_classes=4, **options)
    for num_new in (2, 3):
        network = expand(network, num_new)
        with torch.no_grad():
            network.extractors[-1].conv1.weight.normal_()  # type: ignore[union-attr, operator]
    assert isinstance(network, ExpandedNetwork)
    return network


@pytest.mark.parametrize("name", NAMES)
def test_the_old_logits_change_by_what_the_new_extractor_adds(name: str) -> None:
    torch.manual_seed(0)
    old: Any = build_network(name, num_classes=4).eval()
    before, kept = old.features(images()), copy.deepcopy(old.state_dict())
    network = expand(old, 2).eval()
    after = network.features(images())
    width = old.embedding_dim
    assert isinstance(network, Network)
    assert (network.num_classes, network.embedding_dim, newest_dim(network)) == (6, 2 * width, width)
    torch.testing.assert_close(after.embedding[:, :width], before.embedding)
    torch.testing.assert_close(after.embedding[:, width:], before.embedding)  # the new one starts as a copy
    torch.testing.assert_close(newest_part(network, after.embedding), before.embedding)
    torch.testing.assert_close(network(images()), after.logits)
    with torch.no_grad():  # the embeddings of some networks are tiny before any training
        network.head.weight[:4, width:] /= before.embedding.abs().max()
    after = network.features(images())
    added = before.embedding @ network.head.weight[:4, width:].T
    assert added.abs().max() > 1e-3
    torch.testing.assert_close(after.logits[:, :4], before.logits + added, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        network.head.weight[:4, width:] = 0
    torch.testing.assert_close(network(images())[:, :4], before.logits, atol=1e-5, rtol=1e-5)
    for shape, expected in zip(output_shapes(network, (3, 32, 32)).maps, before.maps, strict=True):
        assert shape == expected.shape[1:]
    state = old.state_dict()
    assert all(torch.equal(state[key], kept[key]) for key in kept), "what is expanded is left as it was"
    assert isinstance(old.head, nn.Linear)


def test_the_rest_of_the_head_is_drawn_as_a_fresh_one_and_the_old_part_kept() -> None:
    torch.manual_seed(0)
    old: Any = build_network("resnet8", num_classes=40)
    with torch.no_grad():
        old.head.weight.fill_(7)
        old.head.bias.fill_(3)
    network = expand(old, 5)
    assert network.head.weight.shape == (45, 128)
    assert (network.head.weight[:40, :64] == 7).all()
    assert (network.head.bias[:40] == 3).all()
    bound = 128**-0.5
    for part in (network.head.weight[:40, 64:], network.head.weight[40:], network.head.bias[40:]):
        assert 0 < part.abs().max() <= bound
    assert network.head.weight[:40, 64:].std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_each_step_adds_an_extractor_behind_the_others() -> None:
    network = twice_expanded().eval()
    assert num_extractors(network) == 3
    assert num_extractors(build_network("resnet8", num_classes=2)) == 1
    assert network.embedding_dim == 192
    features = network.features(images())
    assert features.logits.shape == (3, 9)
    parts = [extractor(images()) for extractor in network.extractors]
    assert not any(torch.allclose(parts[a], parts[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    torch.testing.assert_close(features.embedding, torch.cat(parts, 1))
    torch.testing.assert_close(features.logits, network.head(torch.cat(parts, 1)))
    newest = network.extractors[-1].features(images()).maps  # type: ignore[operator]
    for found, expected in zip(features.maps, newest, strict=True):
        torch.testing.assert_close(found, expected)
    assert not isinstance(network, StagedNetwork)
    single = build_network("resnet8", num_classes=9)
    assert count_parameters(network) == 3 * count_parameters(single) - 2 * 9, "frozen ones count; one bias"


def test_frozen_extractors_stay_in_eval_mode_and_out_of_the_gradient() -> None:
    network = twice_expanded().train()
    *frozen, newest = network.extractors
    assert network.frozen == frozen
    assert all(not module.training for extractor in frozen for module in extractor.modules())
    assert all(module.training for module in newest.modules())
    before = copy.deepcopy(network.state_dict())
    network.features(images()).logits.sum().backward()
    network(images())
    assert all(parameter.grad is None for parameter in frozen_parameters(network))
    assert len(frozen_parameters(network)) == 2 * len(list(newest.parameters()))
    assert all(parameter.grad is not None for parameter in newest.parameters())
    moved = {key for key, values in network.state_dict().items() if not torch.equal(values, before[key])}
    assert moved
    assert all(key.startswith("extractors.2.") for key in moved), "BatchNorm statistics of the newest alone"
    assert frozen_parameters(newest) == []


def test_frozen_extractors_drop_nothing() -> None:
    """Dropout has no parameters, by which a distiller could tell that it is frozen."""
    torch.manual_seed(0)
    network = expand(build_network("wrn_10_1", num_classes=4, dropout=0.5), 2).train()
    first, second = (network.features(images()).embedding for _ in range(2))
    torch.testing.assert_close(first[:, :64], second[:, :64])
    assert not torch.allclose(first[:, 64:], second[:, 64:])


@pytest.mark.parametrize("name", ["resnet8", "torchvision/resnet18"])
def test_weights_load_into_a_network_built_with_so_many_extractors(name: str) -> None:
    torch.manual_seed(0)
    network = expand(expand(build_network(name, num_classes=4), 2), 3).eval()
    twin: Any = build_network(name, num_classes=9, extractors=3)
    twin.load_state_dict(network.state_dict())
    torch.testing.assert_close(twin.eval()(images()), network(images()))
    assert len(frozen_parameters(twin)) == len(frozen_parameters(network)) > 0
    assert not any(parameter.requires_grad for parameter in frozen_parameters(twin))
    copied = copy.deepcopy(network)
    torch.testing.assert_close(copied.features(images()).embedding, network.features(images()).embedding)


def test_another_method_may_grow_the_head_of_an_expanded_network() -> None:
    network = twice_expanded().eval()
    before = network(images())
    grow_head(network, 2)
    assert network.num_classes == 11
    torch.testing.assert_close(network(images())[:, :9], before)


def test_what_cannot_be_expanded_is_refused() -> None:
    for head in ("cosine", "proxy"):
        with refused("needs-linear-head"):
            expand(build_network("resnet8", num_classes=4, head=head), 2)
        with refused("needs-linear-head"):
            build_network("resnet8", num_classes=4, head=head, extractors=2)
    tapped = build_network("torchvision/resnet18", num_classes=4, taps={"embedding": "layer3"})
    assert isinstance(tapped, TappedNetwork)
    with refused("needs-untapped-embedding"):
        expand(tapped, 2)
    for extractors in (0, 1.5, True, "2"):
        with refused("extractors-out-of-range"):
            check_network_options("resnet8", {"extractors": extractors})
    check_network_options("resnet8", {"extractors": 2, "last_relu": False})


def test_an_auxiliary_head_has_a_column_for_all_old_classes_and_one_a_new_one() -> None:
    known = torch.tensor([True, False, True, False, False])
    head = AuxiliaryHead(8, known)
    assert head.weight.shape == (4, 8)
    assert head.columns.tolist() == [0, 1, 0, 2, 3]
    assert head.targets(torch.tensor([4, 0, 1, 2, 3])).tolist() == [3, 0, 1, 0, 2]
    mixed = torch.tensor([[0.25, 0.25, 0.5, 0, 0], [0, 0.5, 0, 0, 0.5]])
    assert head.targets(mixed).tolist() == [[0.75, 0.25, 0, 0], [0, 0.5, 0, 0.5]]
    assert set(head.state_dict()) == {"weight", "bias"}
    embedding = torch.randn(2, 8)
    assert head(embedding.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(head(embedding), embedding @ head.weight.T + head.bias)
