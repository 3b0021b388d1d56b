"""Losses by name: gkd's own, an installed package's, and a user's own by import name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from gkd.core.errors import UserError
from gkd.losses import LOSSES, Loss, loss_entry, loss_names, registry
from gkd.losses.signature import Filled
from gkd.methods.terms import Term
from tests.refusals import refused

MODULE = """
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gkd.losses import Loss, Mask, Range


def gap(student_embedding: Tensor, teacher_embedding: Tensor, *, rate: float = 1.0,
        power: Annotated[float, Range(above=0, at_most=4)] = 2.0,
        how: Literal["mean", "sum"] = "mean", seen: Mask = None) -> Tensor:
    \"\"\"A gap between two means.

    More of it.
    \"\"\"
    return rate * (student_embedding.mean() - teacher_embedding.mean()).abs() ** power


entry = Loss(gap, "a paper", refusal=lambda options: "no sums" if options["how"] == "sum" else None)


def must_say(student_logits: Tensor, *, amount: int) -> Tensor:
    return amount * student_logits.sum()


class Bridge(nn.Module):
    \"\"\"A trained map from one embedding to the other.\"\"\"

    def __init__(self, student, teacher, *, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(student[0], teacher[0], bias=bias)

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
        return (self.layer(student_embedding) - teacher_embedding).square().mean()


def breaks(student_embedding: Tensor) -> Tensor:
    raise RuntimeError("no such thing")


def gives_a_vector(student_embedding: Tensor) -> Tensor:
    return student_embedding.mean(1)


def gives_a_number(student_embedding: Tensor) -> Tensor:
    return 0.0


class Unbuildable(nn.Module):
    def __init__(self, student, teacher) -> None:
        raise RuntimeError("no such thing")

    def forward(self, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor: ...


def reads_nothing(*, rate: float = 1.0) -> Tensor: ...
def reads_the_unknown(student_logit: Tensor) -> Tensor: ...
def has_an_unmarked_tensor(student_logits: Tensor, *, mask: Tensor | None = None) -> Tensor: ...
def hides_a_key(student_logits: Tensor, *, weight: float = 1.0) -> Tensor: ...
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """The import name of a user's module, without its colon."""
    name = f"own_losses_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_FOREIGN", {})
    return name


def test_a_plain_function_is_a_loss_by_its_signature(own: str) -> None:
    term = Term.model_validate({"loss": f"{own}:gap", "rate": -2, "how": "sum"})
    assert term.options == {"rate": -2, "power": 2.0, "how": "sum"}  # its own rate may be below 0
    assert term.needs == ("student_embedding", "teacher_embedding")
    assert term.needs_teacher
    assert term.entry.paper == "A gap between two means"
    assert term.entry.filled == {Filled.MASK: "seen"}
    assert loss_entry(f"{own}:gap") is term.entry  # and is read once


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ({"loss": "gap", "power": 5}, "power=5 is above 4; the loss .* takes one such as 2.0"),
        ({"loss": "gap", "power": 0}, "power=0 is not above 0"),
        ({"loss": "gap", "how": "max"}, "Unknown how 'max'"),
        ({"loss": "gap", "seen": 1}, "Unknown option of the loss .* 'seen'"),
        ({"loss": "hides_a_key"}, "the option 'weight' of the loss .* has the name of a key of every term"),
        ({"loss": "gap", "confidence": "entropy"}, "takes no sample weights"),
        ({"loss": "entry", "how": "sum"}, "no sums"),
        ({"loss": "must_say"}, "has no default for amount; give it a value"),
        ({"loss": "must_say", "amount": 1.5}, "amount=1.5 is not a whole number"),
        ({"loss": "must_say", "amount": 1, "teacher": "big"}, "has no teacher to name"),
        ({"loss": "reads_nothing"}, "reads nothing"),
        ({"loss": "reads_the_unknown"}, "Unknown need 'student_logit'. Did you mean 'student_logits'"),
        ({"loss": "has_an_unmarked_tensor"}, "annotate it with gkd.losses.Mask"),
        ({"loss": "number"}, "is a int; name a function"),
        ({"loss": "absent"}, "Unknown name 'absent'"),
    ],
)
def test_what_is_no_loss_or_does_not_fit_one_is_refused(own: str, term: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Term.model_validate({**term, "loss": f"{own}:{term['loss']}"})


def test_an_unknown_name_lists_the_valid_ones() -> None:
    with refused("unknown-loss"):
        loss_entry("kdd")
    with pytest.raises(UserError, match="there is no module 'absent_module'"):
        Term(loss="absent_module:loss")


def test_an_installed_package_adds_losses_by_entry_point(own: str, offer: Callable[..., None]) -> None:
    names = (("bridge", "Bridge"), ("kd", "gap"), ("broken", "absent"))
    offer("gkd.losses", *((name, f"{own}:{value}") for name, value in names))
    assert loss_names() == [*LOSSES, "bridge", "broken"]
    with refused("plugin-name-taken"):
        loss_entry("kd")
    bridge = loss_entry("bridge")
    assert isinstance(bridge, Loss)
    assert bridge.options == {"bias": True}
    module = bridge.build([(4,), (6,)], {"bias": False}, None)
    assert module.layer.weight.shape == (6, 4)
    assert Term(loss="bridge").entry is bridge
    with refused("import-failed"):
        loss_entry("broken")


@pytest.mark.parametrize(
    ("loss", "code"),
    [("breaks", "loss-fails"), ("gives_a_vector", "not-a-scalar"), ("gives_a_number", "not-a-scalar")],
)
def test_what_a_third_partys_loss_does_wrong_is_a_sentence(own: str, loss: str, code: str) -> None:
    entry = loss_entry(f"{own}:{loss}")
    with pytest.raises(UserError, match=rf"{loss}' .* student_embedding \[2, 3\]") as caught:
        entry.call(entry.function, [torch.zeros(2, 3)], {})
    assert caught.value.code == code
    with pytest.raises(UserError, match=r"Unbuildable' cannot be built for \(3,\) and \(4,\): RuntimeError"):
        loss_entry(f"{own}:Unbuildable").build([(3,), (4,)], {}, None)


def test_a_third_partys_loss_reads_float32(own: str) -> None:
    """Its module holds float32, and in training what it reads may be half."""
    entry = loss_entry(f"{own}:Bridge")
    module = entry.build([(3,), (4,)], {}, None)
    halves = [torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 4, dtype=torch.float16)]
    value = entry.call(module, halves, {})
    torch.testing.assert_close(value, module(*(half.float() for half in halves)))


def test_nothing_is_imported_for_a_name_alone(own: str) -> None:
    assert registry.imported_loss(f"{own}:gap") is None
    assert registry.imported_loss("kd") is LOSSES["kd"]
    assert registry.imported_loss(None) is None
