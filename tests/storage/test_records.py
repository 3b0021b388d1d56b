"""Files of results that cannot be read are one sentence, and no field of them is an Any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from gkd.storage.judged import EpisodeAnswers
from gkd.storage.records import VERSION, read_record
from gkd.storage.run_results import AbsentCell, Cell, Results, RunSummary
from gkd.storage.step_results import Matrices, StepSummary
from tests.refusals import refused


@pytest.mark.parametrize("form", [RunSummary, Cell, StepSummary])
def test_a_file_of_a_later_version_is_refused_by_name(form: type[Results], tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"version": VERSION + 1, "anything": "else"}))
    with refused("later-version"):
        read_record(path, form)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"version": "one"}', '{"classes": 3}'])
@pytest.mark.parametrize("form", [RunSummary, Cell, StepSummary, Matrices])
def test_a_damaged_file_is_one_sentence(form: type[Results], content: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with refused("file-unreadable"):
        read_record(path, form)


def _parts(annotation: object) -> Iterator[object]:
    """An annotation and all that it is made of, fields of records included."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for field in annotation.model_fields.values():
            yield from _parts(field.annotation)


@pytest.mark.parametrize("form", [RunSummary, Cell, AbsentCell, StepSummary, Matrices, EpisodeAnswers])
def test_no_field_of_a_record_is_an_any(form: type[BaseModel]) -> None:
    parts = list(_parts(form))
    assert Any not in parts
    assert float in parts or str in parts
