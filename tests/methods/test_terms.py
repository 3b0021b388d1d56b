"""Terms: what each may say of its loss, spots, rows and weight, and how a weight moves."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gkd.methods.terms import Term, WeightSchedule, checked_terms, class_scale
from tests.refusals import refused


def term_mistake(**content: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Term.model_validate(content)
    return str(caught.value)


def test_an_undefined_affinity_is_refused_before_training() -> None:
    text = term_mistake(loss="affinity", affinity="dot", normalisation="row-sum")
    assert "'row-sum' needs affinities of 0 or more" in text
    assert "compares distributions" in term_mistake(loss="affinity", normalisation="mean", distance="js")


def test_spots_are_paired_and_only_for_losses_that_read_them() -> None:
    assert "paired one by one" in term_mistake(loss="at", at={"student": [0, 1], "teacher": [0]})
    assert "paired one by one" in term_mistake(loss="at", at={"student": [0, 1], "teacher": 0})
    assert "one or more" in term_mistake(loss="at", at={"student": [], "teacher": []})
    assert "has no spots to choose" in term_mistake(loss="pkt", at={"student": 0, "teacher": 0})
    assert "name two spots or more" in term_mistake(loss="fsp")
    three = Term.model_validate({"loss": "fsp", "at": {"student": [0, 1, 2], "teacher": [1, 2, 3]}})
    assert three.readings == [((0, 1), (1, 2)), ((1, 2), (2, 3))]
    assert three.teacher_maps == {1, 2, 3}


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({}, [1, 1, 1]),
        ({"kind": "linear", "warmup_epochs": 20}, [0, 0.5, 1]),
        ({"kind": "exponential", "rate": 0.05}, [1, 0.6065307, 0.2231302]),
    ],
)
def test_weight_schedules(schedule: dict[str, Any], factors: list[float]) -> None:
    weights = WeightSchedule(**schedule)
    assert [weights.factor(epoch) for epoch in (0, 10, 30)] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"loss": "kdd"}, r"Unknown loss 'kdd'. Did you mean 'kd'\?"),
        ({"loss": "kd", "temprature": 2}, r"'temprature'. Did you mean 'temperature'\?"),
        ({"loss": "kd", "wieght": 2}, r"'wieght'. Did you mean 'weight'\?"),
        ({"loss": "kd", "temperature": "hot"}, "the loss 'kd' takes one such as 4.0"),
        ({"loss": "kd", "temperature": True}, "is not a finite number"),
        ({"loss": "tuples", "mining": 3}, "Unknown mining '3'.*semi-hard"),
        ({"loss": "dkd", "confidence": "entropy"}, "'dkd' takes no sample weights"),
        ({"loss": "kd", "weight": -1}, "greater than or equal to 0"),
        ({"loss": "kd", "weight": float("nan")}, "greater than or equal to 0"),
        ({"loss": "kd", "weight": 10**400}, "finite number"),
        ({"loss": "kd", "weight": "heavy"}, "unable to parse string as a number"),
        ({"loss": "kd", "weight": [1]}, "should be a valid number"),
        (
            {"loss": "kd", "weight": {"relative": 0}},
            "relative: .* greater than 0; a measured weight is written",
        ),
        ({"loss": "kd", "weight": {"relativ": 1}}, "relative: Field required; a measured weight is written"),
        ({"loss": "crd", "dim": 0}, "dim=0 is below 1; the loss 'crd' takes one such as 128"),
        ({"loss": "crd", "negatives": 10.5}, "negatives=10.5 is not a whole number"),
        ({"loss": "crd", "momentum": 5}, "momentum=5 is above 1"),
        ({"loss": "crd", "temperature": 0}, "temperature=0 is not above 0"),
        ({"loss": "crd_queue", "queue": -1}, "queue=-1 is below 0"),
        ({"loss": "cross_entropy", "label_smoothing": 2}, "label_smoothing=2 is above 1"),
        ({"loss": "dkd", "rows": "all"}, "needs a target among the shared classes"),
        ({"loss": "kd", "head": "auxiliary"}, "gives student_logits and their labels alone"),
        ({"loss": "cross_entropy_new", "head": "auxiliary"}, "gives student_logits and their labels alone"),
        ({"loss": "pkt", "head": "auxiliary"}, "'pkt' reads student_embedding, teacher_embedding, where"),
        ({"loss": "sp", "where": "shared"}, "which needs no shared class; drop the key"),
        ({"loss": "cross_entropy", "head": "other"}, "'student' or 'auxiliary'"),
    ],
)
def test_a_wrong_term_is_refused(term: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Term.model_validate(term)


@pytest.mark.parametrize(
    "term",
    [
        {"loss": "tuples", "mining": "semihard"},
        {"loss": "tuples", "temperature": 0},
        {"loss": "kd", "temperature": 0},
        {"loss": "induced_classifier", "classes": "every"},
    ],
    ids=lambda term: "-".join(map(str, term.values())),
)
def test_a_value_that_its_loss_would_refuse_is_refused_before_training(term: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Term.model_validate(term)


@pytest.mark.parametrize(
    "schedule",
    [{"kind": "linear"}, {"rate": 0.1}, {"kind": "exponential", "rate": -1}, {"kind": "linear", "rate": 0.1}],
)
def test_a_schedule_without_its_number_is_refused(schedule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"needs warmup_epochs above 0|greater than or equal to 0"):
        Term.model_validate({"loss": "kd", "schedule": schedule})


@pytest.mark.parametrize(
    ("kind", "expected"), [("old-share", 0.8), ("new-share", 0.2), ("ucir", 2.0), ("podnet", 5**0.5)]
)
def test_weights_that_follow_the_numbers_of_classes(kind: Any, expected: float) -> None:
    assert class_scale(kind, 40, 10) == pytest.approx(expected)
    assert (class_scale("old-share", 0, 5), class_scale("new-share", 0, 5)) == (0, 1)


def test_a_term_written_in_python_is_refused_in_a_sentence() -> None:
    with refused("invalid-term") as caught:
        Term(loss="kd", temperature=0)  # type: ignore[call-arg]
    assert "temperature=0 is not above 0" in str(caught.value)
    with refused("invalid-term"):
        Term(loss="kd", weight=-1.0)
    with refused("invalid-term"):
        Term(weight=1.0)  # type: ignore[call-arg]
    assert Term(loss="kd", weight=0.5).weight == 0.5


def test_what_is_no_term_is_refused_by_its_name() -> None:
    terms = {"kd": Term(loss="kd")}
    assert checked_terms(terms) == terms
    for value in (3.0, {"loss": "kd"}, "kd", None):
        with refused("not-a-term"):
            checked_terms({"kd": value})  # type: ignore[dict-item]
    with refused("not-terms"):
        checked_terms(["kd"])  # type: ignore[arg-type]
