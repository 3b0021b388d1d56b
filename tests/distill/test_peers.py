"""Two students that learn from each other: each is a constant to the other, and both step at once."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.batch import Batch
from gkd.distill.distiller import Distiller
from gkd.distill.peers import Mutual, Pair, states_of
from gkd.methods.terms import Term
from gkd.models import build_network
from tests.refusals import refused

TERMS = {"cross_entropy": Term(loss="cross_entropy"), "mutual": Term(loss="mutual", weight=0.7)}


def pair(seed: int = 0, peer: str = "resnet8") -> Pair:
    torch.manual_seed(seed)
    return Pair(*(build_network(name, num_classes=3, in_channels=1) for name in ("resnet8", peer)))


def mutual(networks: Pair) -> Mutual:
    return Mutual(Distiller(networks.student, None, TERMS), Distiller(networks.peer, None, TERMS))


def test_each_has_the_same_losses_with_the_roles_exchanged(make_batch: Callable[..., Batch]) -> None:
    networks, batch = pair(), make_batch(3)
    losses = mutual(networks).train()(batch)
    first, second = copy.deepcopy(networks).train(), copy.deepcopy(networks).train()
    ours, theirs = first.student(batch.images), second.peer(batch.images)
    for prefix, own, other in (("", ours, theirs), ("peer/", theirs, ours)):
        hard = F.cross_entropy(own, batch.labels)
        soft = F.kl_div(own.log_softmax(1), other.softmax(1), reduction="batchmean")
        torch.testing.assert_close(losses[f"{prefix}loss/cross_entropy"], hard.detach())
        torch.testing.assert_close(losses[f"{prefix}loss/mutual"], soft.detach())
    whole = [
        F.cross_entropy(own, batch.labels)
        + 0.7 * F.kl_div(own.log_softmax(1), other.detach().softmax(1), reduction="batchmean")
        for own, other in ((ours, theirs), (theirs, ours))
    ]
    torch.testing.assert_close(losses["loss"], sum(whole))
    torch.testing.assert_close(losses["peer/loss"], whole[1].detach())


def test_no_gradient_of_one_reaches_the_other(make_batch: Callable[..., Batch]) -> None:
    """The sum's gradient at each network is that of its own loss, the other's outputs being numbers."""
    networks, batch = pair(), make_batch(3)
    for outputs in mutual(pair())._outputs(batch):  # also for a loss that would let it through
        peer = outputs["clean"].peer
        assert peer is not None
        assert not any(each.requires_grad for each in (peer.logits, peer.embedding, *peer.maps))
    mutual(networks).train()(batch)["loss"].backward()
    again = pair()
    again.train()
    with torch.no_grad():
        ours, theirs = copy.deepcopy(again).student(batch.images), copy.deepcopy(again).peer(batch.images)
    for name, network, other in (("student", again.student, theirs), ("peer", again.peer, ours)):
        logits = network(batch.images)
        soft = F.kl_div(logits.log_softmax(1), other.softmax(1), reduction="batchmean")
        (F.cross_entropy(logits, batch.labels) + 0.7 * soft).backward()
        trained = getattr(networks, name)
        for expected, found in zip(network.parameters(), trained.parameters(), strict=True):
            torch.testing.assert_close(found.grad, expected.grad, msg=name)


def test_both_are_in_the_optimiser_and_in_the_state(make_batch: Callable[..., Batch]) -> None:
    networks = pair(peer="wrn_16_1")
    both = mutual(networks)
    held = {id(each) for group in both.param_groups() for each in group["params"]}
    assert held == {id(each) for each in networks.parameters()}
    clipped = both.clipped_together()
    assert [{id(p) for p in part} for part in clipped] == [
        {id(p) for p in network.parameters()} for network in (networks.student, networks.peer)
    ]
    other = mutual(pair(seed=5, peer="wrn_16_1"))
    other.load_state_dict(both.state_dict())
    batch = make_batch(3)
    assert torch.equal(other.eval()(batch)["loss"], both.eval()(batch)["loss"])
    both.set_epoch(3.5)
    assert (both.ours.epoch, both.theirs.epoch) == (3.5, 3.5)


def test_a_pair_answers_as_its_student_and_its_state_is_of_both(make_batch: Callable[..., Batch]) -> None:
    networks, batch = pair(peer="wrn_16_1").eval(), make_batch(3)
    assert torch.equal(networks(batch.images), networks.student(batch.images))
    assert torch.equal(
        networks.features(batch.images).embedding, networks.student.features(batch.images).embedding
    )
    assert networks.head is networks.student.head
    assert (networks.num_classes, networks.embedding_dim) == (3, networks.student.embedding_dim)

    def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
        return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

    student, peer = states_of(networks.state_dict())
    assert same(student, networks.student.state_dict())
    assert same(peer, networks.peer.state_dict())


def test_a_student_alone_has_no_peer_to_read(make_batch: Callable[..., Batch]) -> None:
    distiller = Distiller(pair().student, None, TERMS)
    with refused("needs-peer"):
        distiller(make_batch(3))


@pytest.mark.parametrize("name", ["rkd_distance", "sp"])
def test_terms_that_read_a_teacher_are_beside_them(
    name: str, make_teacher: Callable[..., object], make_batch: Callable[..., Batch]
) -> None:
    networks, teacher, terms = (
        pair(),
        make_teacher("abc", mean=None, std=None),
        {**TERMS, "t": Term(loss=name)},
    )
    sides = [Distiller(each, teacher, terms) for each in (networks.student, networks.peer)]
    losses = Mutual(*sides)(make_batch(3))
    assert losses["loss/t"] != losses["peer/loss/t"]
