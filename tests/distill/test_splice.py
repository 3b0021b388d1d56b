"""The spliced network: one side to the bit where gates agree, hints between any sizes, and what cannot be cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.tapped import output_shapes
from gkd.distill.router import Router
from gkd.distill.splice import ordered_spots, spot_name
from gkd.distill.teacher import Teacher
from gkd.methods.routing import Routing
from gkd.models import build_network
from tests.distill.routed import network, pictures, router_of, teacher_of
from tests.refusals import refused

MakeTeacher = Callable[..., Teacher]


PAIRS: list[tuple[str, str, list[Any]]] = [
    ("wrn_16_1", "wrn_40_2", [(1, 1), (2, 2), (3, 3)]),
    ("resnet8x4", "resnet14", [(2, 2)]),
    ("vgg8", "vgg11", [(1, 1), (2, 2), (3, 3), (4, 4)]),
    ("ShuffleV1", "wrn_16_2", [(1, 1), (2, 2), (3, 3), ("embedding", "embedding")]),
    ("ShuffleV2", "resnet8", [(-1, -1)]),
    ("MobileNetV2", "vgg8", [(1, 1), (2, 2), (-1, -1)]),
    ("vgg8", "ResNet18", [(1, 2), (3, 3), (4, 4)]),
    ("wrn_10_1", "mobilenet_0_25", [(2, 1), (3, 4)]),
    ("conv4_32", "resnet12_narrow", [(0, 0), (3, 3), ("embedding", "embedding")]),
    ("resnet8", "wrn_16_1", []),
]


@pytest.mark.parametrize(("student", "teacher", "pairs"), PAIRS, ids=[f"{s}-{t}" for s, t, _ in PAIRS])
def test_the_spliced_network_is_one_side_where_all_gates_agree(
    student: str, teacher: str, pairs: list[Any]
) -> None:
    pupil, master, images = network(student), teacher_of(teacher), pictures()
    router = router_of(pupil, master, pairs)
    plain = master.features(images)
    assert len(router.spots) == len(pairs) + 1
    off = router.splice(images, plain, torch.zeros(3, len(router.spots)))
    on = router.splice(images, plain, torch.ones(3, len(router.spots)))
    torch.testing.assert_close(off, pupil.eval()(images), rtol=0, atol=0)
    torch.testing.assert_close(on, plain.logits, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(off, on)


def test_each_gate_swaps_both_paths_of_its_own_sample() -> None:
    """Against the definition, stage by stage: s' = S(s), t' = T(t), then each gets the other's where the gate says."""
    pupil, master, images = network("wrn_10_1"), teacher_of("wrn_16_2"), pictures(count=4)
    router = router_of(pupil, master, [(1, 1), (3, 3)]).eval()
    gates = torch.tensor([[0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1.0]])
    found = router.splice(images, master.features(images), gates)
    pupil.eval()
    ours, theirs = [*pupil.stages(), pupil.fc], [*master.network.stages(), master.network.fc]
    for row, gate in enumerate(gates):
        s = t = images[row : row + 1]
        for number, (first, last) in enumerate([(0, 2), (2, 4)]):
            for stage in range(first, last):
                s, t = ours[stage](s), theirs[stage](t)
            hinted, back = router.splice.hints[number](s), router.splice.anti_hints[number](t)
            s, t = (back, t) if gate[number] else (s, hinted)
        for stage in (4, 5):
            s, t = ours[stage](s), theirs[stage](t)
        torch.testing.assert_close(found[row : row + 1], t if gate[2] else s, rtol=1e-5, atol=1e-5)


def test_every_gate_moves_the_spliced_logits_by_their_derivative() -> None:
    pupil, master = network("resnet8").double(), teacher_of("wrn_10_1").double()
    router = router_of(pupil, master, [(1, 1), (3, 3), ("embedding", "embedding")], size=8).double().eval()
    images = pictures(8, 2).double()
    plain = master.features(images)
    gates = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda gates: router.splice(images, plain, gates), (gates,))
    router.splice(images, plain, gates).sum().backward()
    assert gates.grad.abs().gt(0).all()


def test_hints_join_any_two_sizes() -> None:
    pupil, master = network("wrn_10_1"), teacher_of("mobilenet_0_25")
    router = router_of(pupil, master, [(0, 0), (1, 1), (3, 4)], size=40)
    images = pictures(40)
    assert router.splice(images, master.features(images), torch.full((3, 4), 0.0)).shape == (3, 5)
    assert [hint.size for hint in router.splice.hints] == [
        None,
        (10, 10),
        (2, 2),
    ]  # 40 to 20 halves; 40 to 10; 10 to 2


def test_logits_are_over_the_students_classes() -> None:
    pupil, images = network("resnet8", 3), pictures()
    same = teacher_of("wrn_10_1", "cab")
    router = router_of(pupil, same, [], classes="abc")
    on = router.splice(images, same.features(images), torch.ones(3, 1))
    torch.testing.assert_close(on, same.features(images).logits[:, [1, 2, 0]])
    for classes in ("bcx", "xyz"):  # the teacher's head does not know them, so a trained one speaks for it
        other = router_of(pupil, same, [(2, 2)], classes=classes)
        assert other.splice.teacher_head is not None
        on = other.splice(images, same.features(images), torch.ones(3, 2))
        torch.testing.assert_close(on, other.splice.teacher_head(same.features(images).embedding))


def test_spots_must_not_cross() -> None:
    shapes = (output_shapes(network("resnet8"), (3, 32, 32)),) * 2
    assert ordered_spots([(3, 3), (-1, -1), (1, 2)], shapes) == [(1, 2), (3, 3)]
    for pairs in ([(1, 2), (2, 1)], [(1, 2), (2, 2)], [(1, "embedding"), (2, 3)]):
        with refused("spots-cross"):
            ordered_spots(pairs, shapes)
        assert len(ordered_spots(pairs, shapes, crossing=True)) == 2  # where nothing is spliced
    with refused("spots-cross"):
        ordered_spots([("embedding", "logits"), ("logits", "logits")], shapes)
    with refused("spot-out-of-range"):
        ordered_spots([(4, 3)], shapes)
    assert [spot_name(pair) for pair in [(2, 2), (2, 3), ("logits", "logits")]] == [
        "map2",
        "map2-map3",
        "logits",
    ]


def test_logits_that_the_head_does_not_give_are_refused(make_teacher: MakeTeacher) -> None:
    class TwoHeads(nn.Module):
        """The mean of two heads, of which one is known, as in distilled vision transformers."""

        num_classes, embedding_dim = 3, 64

        def __init__(self) -> None:
            super().__init__()
            self.inner = build_network("resnet8", num_classes=3, in_channels=1)
            self.head, self.other = nn.Linear(64, 3), nn.Linear(64, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.features(images).logits

        def features(self, images: Tensor) -> Any:
            features = self.inner.features(images)
            both = (self.head(features.embedding) + self.other(features.embedding)) / 2
            return replace(features, logits=both)

    network, teacher = TwoHeads(), make_teacher("abc")
    shapes = (output_shapes(network, (1, 8, 8)), output_shapes(teacher.network, (1, 8, 8)))
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"]))
    with refused("stages-missing"):
        Router(network, teacher, [("embedding", "embedding")], Routing(policy="adaptive"), shapes, relation)


def test_a_network_without_stages_is_refused(make_teacher: MakeTeacher) -> None:
    class Whole(nn.Module):
        num_classes, embedding_dim = 3, 64

        def __init__(self) -> None:
            super().__init__()
            self.inner = build_network("resnet8", num_classes=3, in_channels=1)
            self.head = self.inner.fc

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images)

        def features(self, images: Tensor) -> Any:
            return self.inner.features(images)

    whole, teacher = Whole(), make_teacher("abc")
    shapes = (output_shapes(whole, (1, 8, 8)), output_shapes(teacher.network, (1, 8, 8)))
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"]))
    with refused("stages-missing"):
        Router(whole, teacher, [(1, 1)], Routing(policy="adaptive"), shapes, relation)
    # Beyond the maps nothing needs to be cut.
    router = Router(
        whole, teacher, [("embedding", "embedding")], Routing(policy="adaptive"), shapes, relation
    )
    images = torch.randn(2, 1, 8, 8)
    off = router.splice(images, teacher.features(images), torch.zeros(2, 2))
    assert torch.equal(off, whole.eval()(images))
    assert Router(whole, teacher, [(1, 1)], Routing(policy="random"), shapes, relation)
