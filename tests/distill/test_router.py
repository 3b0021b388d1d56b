"""Routing: gates, the spliced network, what trains the policy, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.distill.distiller import Distiller
from gkd.distill.router import Router, same_family
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.methods.routing import Routing
from gkd.methods.terms import Term
from gkd.models import build_network
from tests.distill.routed import network, router_of, teacher_of
from tests.refusals import refused

MakeTeacher = Callable[..., Teacher]
MakeBatch = Callable[..., Batch]

LAST_MAP = {"student": -1, "teacher": -1}
THREE = {"student": [1, 2, 3], "teacher": [1, 2, 3]}
# The ten distillers of the paper, KD, DKD and REFILLED's first stage, on networks of four maps.
TERMS: dict[str, dict[str, Any]] = {
    "fitnet": {"at": {"student": 2, "teacher": 2}},
    "at": {"at": THREE},
    "sp": {"at": LAST_MAP},
    "cc_neighbour": {},
    "vid": {"at": THREE},
    "rkd_distance": {},
    "rkd_angle": {},
    "pkt": {},
    "ft": {"at": LAST_MAP},
    "nst": {"at": THREE},
    "crd": {"dim": 6, "negatives": 7},
    "kd": {},
    "dkd": {},
    "tuples": {},
    "affinity": {"at": {"student": "embedding", "teacher": "embedding"}},
    "fsp": {"at": {"student": [2, 3], "teacher": [2, 3]}},
}


# --- the policy -------------------------------------------------------------------------------------------------


def fixed_policy(router: Router, *scores: float) -> None:
    """The same score for distilling at each spot, whatever the sample."""
    assert router.policy is not None
    with torch.no_grad():
        router.policy.weight.zero_()
        router.policy.bias.zero_()
        router.policy.bias[::2] = torch.tensor(scores)


def test_gates_are_drawn_with_the_policys_probability() -> None:
    pupil, master = network("wrn_10_1"), teacher_of("wrn_10_1")
    router = router_of(pupil, master, [(2, 2)], temperature=5.0)
    fixed_policy(router, 1.0, -2.0)
    zeros = torch.zeros(20_000, 64)
    gates = router.choose(zeros, zeros)
    assert set(gates.detach().unique().tolist()) == {0.0, 1.0}
    expected = torch.sigmoid(torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(gates.detach().mean(0), expected, rtol=0, atol=0.012)  # 3.5 standard errors


def test_the_gradient_of_a_gate_is_that_of_the_gumbel_softmax() -> None:
    pupil, master = network("wrn_10_1"), teacher_of("wrn_10_1")
    router = router_of(pupil, master, [], temperature=5.0)
    fixed_policy(router, 0.3)
    state = router.generator.get_state()
    gates = router.choose(torch.zeros(6, 64), torch.zeros(6, 64))
    gates.sum().backward()
    router.generator.set_state(state)
    noise = -torch.empty(6, 1, 2).exponential_(generator=router.generator).log()
    soft = ((torch.tensor([0.3, 0.0]) + noise) / 5).softmax(2)[..., 0]
    assert torch.equal(gates.detach(), (soft > 0.5).float())
    expected = (soft * (1 - soft) / 5).sum()
    torch.testing.assert_close(router.policy.bias.grad, torch.stack([expected, -expected]))


@pytest.mark.parametrize(("g", "teacher_gate"), [(1.0, 0.0), (2.0, 0.0), (2.0, 1.0)])
def test_the_routing_loss_follows_the_paper(g: float, teacher_gate: float) -> None:
    router = router_of(network("wrn_10_1"), teacher_of("wrn_10_1"), [], classify_weight=g)
    generator = torch.Generator().manual_seed(0)
    routed, labels = torch.randn(8, 5, generator=generator), torch.arange(8) % 5
    gates = torch.zeros(8, 1)
    gates[:3] = teacher_gate  # 3 of 8 kept where half, 4, should be
    for own, factor in ((torch.zeros(8, 5), g), (-9 * F.one_hot(labels, 5).float(), 1 / g)):
        expected = factor * F.cross_entropy(routed, labels) + (1 if teacher_gate else 4)
        torch.testing.assert_close(router.loss(routed, own, labels, gates), expected)
    gates[:] = 1.0
    expected = F.cross_entropy(routed, labels) * g
    torch.testing.assert_close(router.loss(routed, torch.zeros(8, 5), labels, gates), expected)


def test_networks_of_one_family_start_with_all_spots_on() -> None:
    for name, on in (("wrn_16_1", True), ("resnet8", False)):
        pupil, master = network("wrn_10_1"), teacher_of(name)
        assert same_family(pupil, master.network) is on
        router = router_of(pupil, master, [(1, 1), (2, 2)])
        bias = router.policy.bias
        assert bool((bias[::2] - bias[1::2] > 8).all()) is on
    assert router_of(pupil, master, [], initial_bias=3.0).policy.bias[0] > 2


def test_random_gates_are_coins_and_need_no_stages(make_teacher: MakeTeacher, make_batch: MakeBatch) -> None:
    distiller = distiller_of(make_teacher("abc"), {"sp": {}, "kd": {}}, "random")
    assert not list(distiller.router.parameters())
    shares = torch.stack([distiller(make_batch(3))["share/map3"] for _ in range(200)])
    assert abs(shares.mean() - 0.5) < 0.05
    assert "loss/routing" not in distiller(make_batch(3))


# --- in a step --------------------------------------------------------------------------------------------------


def distiller_of(
    teacher: Teacher, terms: dict[str, Any], policy: str, *, classes: str = "abc", **options: Any
) -> Distiller:
    torch.manual_seed(0)
    student = build_network("resnet14", num_classes=len(classes), in_channels=1)
    return Distiller(
        student,
        TeacherSide(teacher, LabelRelation(teacher.space, LabelSpace([*classes]))),
        {name: Term.model_validate({"loss": name, **keys}) for name, keys in terms.items()},
        image_shape=(1, 8, 8),
        train_labels=torch.arange(16) % len(classes),
        routing=Routing(policy=policy, **options),
    )


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", TERMS)
def test_with_all_spots_on_it_is_the_plain_method(
    make_teacher: MakeTeacher, make_batch: MakeBatch, name: str
) -> None:
    terms = {"cross_entropy": {}, name: TERMS[name]}
    results = []
    for policy in ("always", "adaptive"):
        distiller = distiller_of(make_teacher("abc"), terms, policy)
        if distiller.router is not None:
            fixed_policy(distiller.router, *[1e6] * len(distiller.router.spots))
        torch.manual_seed(4)  # CRD's negatives
        losses = distiller(make_batch(3))
        losses["loss"].backward()
        state = {key: value for key, value in distiller.state_dict().items() if not key.startswith("router")}
        kept = {key: value for key, value in gradients(distiller).items() if not key.startswith("router")}
        results.append((losses[f"loss/{name}"], kept, state))
    (plain, gradient, state), (routed, routed_gradient, routed_state) = results
    torch.testing.assert_close(routed, plain, rtol=1e-5, atol=1e-7)
    assert gradient.keys() == routed_gradient.keys()
    for key, values in gradient.items():
        torch.testing.assert_close(routed_gradient[key], values, rtol=1e-4, atol=1e-6, msg=key)
    for key, values in state.items():  # BatchNorm's statistics and CRD's banks among them
        torch.testing.assert_close(routed_state[key], values, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", TERMS)
def test_rows_that_are_not_routed_contribute_nothing(
    make_teacher: MakeTeacher, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The term is that of the chosen rows alone, times their share of the batch."""
    chosen = torch.tensor([True, False, True, True, False, True, True, False])
    batch = make_batch(3)

    def value(gates: Tensor, batch: Batch) -> Tensor:
        distiller = distiller_of(make_teacher("abc"), {name: TERMS[name]}, "adaptive").eval()
        monkeypatch.setattr(
            Router, "choose", lambda self, *_: gates.float().unsqueeze(1).expand(-1, len(self.spots))
        )
        torch.manual_seed(4)
        return distiller(batch)[f"loss/{name}"]

    subset = replace(
        batch, images=batch.images[chosen], labels=batch.labels[chosen], index=batch.index[chosen]
    )
    whole, part = value(chosen, batch), value(torch.ones(5, dtype=torch.bool), subset)
    if name != "crd":  # which draws other negatives for another batch
        torch.testing.assert_close(whole, part * 5 / 8, rtol=1e-4, atol=1e-6)
    for rows in (torch.zeros(8, dtype=torch.bool), torch.arange(8) == 3):
        found = value(rows, batch)
        assert torch.isfinite(found)
        if not rows.any():
            assert found == 0


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", TERMS)
def test_no_row_or_one_leaves_a_graph_and_finite_gradients(
    make_teacher: MakeTeacher, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    gates = (torch.arange(8) < count).float()
    monkeypatch.setattr(Router, "choose", lambda self, *_: gates.unsqueeze(1).expand(-1, len(self.spots)))
    distiller = distiller_of(make_teacher("abc"), {"cross_entropy": {}, name: TERMS[name]}, "adaptive")
    distiller(make_batch(3))["loss"].backward()
    assert all(torch.isfinite(values).all() for values in gradients(distiller).values())


def test_each_side_gets_its_gradient_from_its_own_loss(
    make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    terms = {"cross_entropy": {}, "at": TERMS["at"], "kd": {}, "fitnet": TERMS["fitnet"]}

    def after(which: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The gradients of student with adapters, and of the router."""
        distiller = distiller_of(make_teacher("abc"), terms, "adaptive", initial_bias=0.0)
        routing: list[Tensor] = []
        distiller.router.register_forward_hook(
            lambda _module, _inputs, decision: routing.append(decision.loss)
        )
        total = distiller(make_batch(3))["loss"]
        {"both": total, "routing": routing[0], "student": total - routing[0]}[which].backward()
        grads = gradients(distiller)
        own = {key: value for key, value in grads.items() if key.startswith("router.")}
        return {key: value for key, value in grads.items() if key not in own}, own

    both_student, both_router = after("both")
    routing_student, routing_router = after("routing")
    student_student, student_router = after("student")
    assert not any(values.any() for values in routing_student.values())
    assert not any(values.any() for values in student_router.values())
    assert both_router["router.policy.weight"].any()
    assert both_router["router.splice.hints.0.regressor.resize.weight"].any()
    for key, values in both_router.items():
        assert torch.equal(values, routing_router[key]), key
    for key, values in both_student.items():
        torch.testing.assert_close(values, student_student[key], rtol=1e-6, atol=1e-8)


class NoSynchronisation(TorchDispatchMode):
    """Refuses what waits for a device: a number read from a tensor, a shape that its values decide."""

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        assert name not in self.waiting, f"{func} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), (
                f"{func} by a mask waits"
            )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("policy", ["adaptive", "random"])
@pytest.mark.parametrize("name", TERMS)
def test_a_step_never_waits_for_the_device(
    make_teacher: MakeTeacher, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch, name: str, policy: str
) -> None:
    # Labels are looked at on the CPU alone: by gkd outside torch.compile, by torch in one_hot.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(
        F, "one_hot", lambda labels, count: (labels.unsqueeze(1) == torch.arange(count)).long()
    )
    distiller = distiller_of(make_teacher("abc"), {"cross_entropy": {}, name: TERMS[name]}, policy)
    batch = make_batch(3)
    with NoSynchronisation():
        distiller(batch)["loss"].backward()
        with pytest.raises(AssertionError, match="waits"):
            batch.images.sum().item()


def test_the_students_statistics_and_random_numbers_are_those_of_an_ordinary_step(
    make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    states = []
    for policy in ("always", "adaptive"):
        distiller = distiller_of(make_teacher("abc"), {"cross_entropy": {}, "at": TERMS["at"]}, policy)
        distiller.train()
        before = distiller.teacher.state_hash()
        for seed in (3, 4):
            distiller(make_batch(3, seed=seed))
        assert distiller.teacher.state_hash() == before
        states.append((distiller.student.state_dict(), torch.rand(1)))
    assert states[0][1] == states[1][1]
    assert all(torch.equal(values, states[1][0][key]) for key, values in states[0][0].items())


def test_the_spliced_student_follows_the_trained_one(
    make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    distiller = distiller_of(make_teacher("abc"), {"cross_entropy": {}, "sp": {}}, "adaptive")
    optimiser = torch.optim.SGD(distiller.param_groups()[0]["params"], lr=0.5)
    batch = make_batch(3)
    for _ in range(2):
        distiller(batch)["loss"].backward()
        optimiser.step()
    teacher = distiller.teacher.features(batch.images)
    off = distiller.router.splice(batch.images, teacher, torch.zeros(8, 2))
    torch.testing.assert_close(off, distiller.student.eval()(batch.images), rtol=0, atol=0)


def test_the_router_has_its_own_group_norm_and_state(
    make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    distiller = distiller_of(
        make_teacher("abc"), {"cross_entropy": {}, "fitnet": TERMS["fitnet"]}, "adaptive"
    )
    student, adapters, router = distiller.param_groups()
    assert (router["lr_scale"], router["decay_scale"]) == (0.5, 2.0)
    assert (student["lr_scale"], adapters["decay_scale"]) == (1.0, 1.0)
    parts = [{id(p) for p in group["params"]} for group in (student, adapters, router)]
    assert parts[2] == {id(p) for p in distiller.router.parameters()}
    assert not parts[2] & (parts[0] | parts[1])
    together = [{id(p) for p in parameters} for parameters in distiller.clipped_together()]
    assert together[1] == parts[2]
    assert together[0] == parts[0] | parts[1]
    names = [key for key in distiller.state_dict() if key.startswith("router.")]
    assert "router._extra_state" in names
    assert not any("student" in key or "teacher" in key for key in names)


def test_the_generators_state_goes_on(make_teacher: MakeTeacher, make_batch: MakeBatch) -> None:
    terms = {"cross_entropy": {}, "sp": {}}
    distiller = distiller_of(make_teacher("abc"), terms, "adaptive", initial_bias=0.0)
    distiller(make_batch(3))
    saved = {key: value.clone() for key, value in distiller.state_dict().items()}
    expected = distiller.router.choose(torch.zeros(50, 64), torch.zeros(50, 64))
    other = distiller_of(make_teacher("abc"), terms, "adaptive", initial_bias=0.0)
    other.load_state_dict(saved)
    assert torch.equal(other.router.choose(torch.zeros(50, 64), torch.zeros(50, 64)), expected)


def test_shares_are_reported_by_spot_and_by_class(
    make_teacher: MakeTeacher, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 1]] * 2).float()
    monkeypatch.setattr(Router, "choose", lambda self, *_: gates)
    distiller = distiller_of(make_teacher("abcd"), {"sp": {}}, "adaptive", classes="abcd")
    losses = distiller(make_batch(4))
    assert (losses["share/map3"], losses["share/logits-gate"]) == (0.5, 0.75)
    distiller(make_batch(4))
    shares = distiller.router.take_shares()
    assert shares == {"map3": [1.0, 1.0, 0.0, 0.0], "logits-gate": [0.0, 1.0, 1.0, 1.0]}
    assert distiller.router.take_shares()["map3"] == [None] * 4
    anti = distiller_of(make_teacher("abcd"), {"sp": {}, "kd": {}}, "anti", classes="abcd")
    assert anti(make_batch(4))["share/logits"] == 0.25


@pytest.mark.parametrize("classes", ["bcd", "xyz"])
def test_other_label_spaces_are_routed_too(
    make_teacher: MakeTeacher, make_batch: MakeBatch, classes: str
) -> None:
    terms: dict[str, Any] = {"cross_entropy": {}, "sp": {}, "tuples": {}}
    if classes == "bcd":
        terms["kd"] = {}  # rows of classes that the teacher lacks have no target; the share is of the others
    distiller = distiller_of(make_teacher("abc"), terms, "adaptive", classes=classes)
    losses = distiller(make_batch(3))
    losses["loss"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert distiller.router.splice.teacher_head.weight.grad is not None
    if classes == "bcd":
        fixed_policy(distiller.router, *[1e6] * 3)
        plain = distiller_of(make_teacher("abc"), terms, "always", classes=classes)
        torch.testing.assert_close(distiller(make_batch(3))["loss/kd"], plain(make_batch(3))["loss/kd"])


# --- what is refused --------------------------------------------------------------------------------------------


def test_a_distiller_refuses_what_a_stage_would(make_teacher: MakeTeacher) -> None:
    induced = {"induced_classifier": {"centres": "batch"}}
    for terms in ({"cross_entropy": {}}, {"cross_entropy": {}, **induced}):
        with refused("terms-not-routable"):
            distiller_of(make_teacher("abc"), terms, "adaptive")


def test_a_loss_that_trains_nothing_keeps_no_graph(make_teacher: MakeTeacher, make_batch: MakeBatch) -> None:
    distiller = distiller_of(make_teacher("abc"), {"sp": {}}, "adaptive")
    distiller.param_groups(["head"])  # of which similarities of maps know nothing
    assert not distiller(make_batch(3))["loss"].requires_grad
