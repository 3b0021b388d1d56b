"""Vectors of class names, in the order of the student's columns."""

from __future__ import annotations

import pytest
import torch

from gkd.core.class_vectors import ClassVectors
from gkd.core.labels import LabelRelation, LabelSpace, unnamed_classes
from tests.refusals import refused

TEACHER = LabelSpace(["tench", "goldfish", "shark"])
VECTORS = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]])


@pytest.mark.parametrize(
    ("names", "relation", "rows"),
    [
        (["a", "b", "c"], LabelRelation(unnamed_classes(1), LabelSpace(["c", "a"])), [2, 0]),
        (["a", "b", "c"], LabelRelation(LabelSpace(["c", "a"]), LabelSpace(["x", "a"]), {"x": "c"}), [2, 0]),
        # By the part of the name that match finds, where the names themselves are not there.
        (
            ["n01 tench", "n02 goldfish", "n03 shark"],
            LabelRelation(unnamed_classes(1), LabelSpace(["n03_x", "n01_y"]), match=r"n\d\d"),
            [2, 0],
        ),
        # An alias to one of the teacher's classes that has no vector says nothing of the names here.
        (["a", "b", "c"], LabelRelation(TEACHER, LabelSpace(["b", "a"]), {"a": "tench"}), [1, 0]),
    ],
)
def test_a_class_has_the_vector_of_its_name(
    names: list[str], relation: LabelRelation, rows: list[int]
) -> None:
    found = ClassVectors(LabelSpace(names), VECTORS).centres(relation, 2)
    expected = torch.tensor([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])[rows]
    torch.testing.assert_close(found, expected)


def test_a_missing_name_and_another_dimension_are_sentences() -> None:
    vectors = ClassVectors(TEACHER, VECTORS, "teacher.names names.safetensors")
    relation = LabelRelation(unnamed_classes(1), LabelSpace(["tench", "ray"]))
    with refused("names-missing"):
        vectors.centres(relation, 2)
    with refused("other-dimension"):
        vectors.centres(relation, 3)
