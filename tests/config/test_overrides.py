"""The form of an override, and how one is told from a file."""

from __future__ import annotations

import pytest

from gkd.config.overrides import SECTIONS, is_override, split_override, why_no_override
from gkd.config.schema import Experiment


def test_the_sections_are_those_of_the_schema():
    assert list(SECTIONS) == list(Experiment.model_fields)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("run.seed=1", ("run.seed", "1")),
        ("method=sp", ("method", "sp")),
        ("student.network=my:net", ("student.network", "my:net")),
        ("data.root=a=b.zip", ("data.root", "a=b.zip")),
        ("run.seed", None),
        ("./a=b.png", None),
        ("folder/a=b.png", None),
        ("=1", None),
    ],
)
def test_an_override_has_a_dotted_key_and_a_value(word, parts):
    assert split_override(word) == parts


def test_an_image_may_be_called_like_an_override(tmp_path, monkeypatch):
    """What is a file there is one; a key that is no section and has no dot is a file that is missing."""
    monkeypatch.chdir(tmp_path)
    assert is_override("run.seed=1.png")
    (tmp_path / "run.seed=1.png").touch()
    assert not is_override("run.seed=1.png")
    assert not is_override("a=b.png")
    assert not is_override("./method=sp")
    assert is_override("method=sp")
    assert is_override("studnet.network=my:net")


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("run.epochs", "without spaces around ="),  # of run.epochs = 3
        ("run.epochs =3", "without spaces around ="),
        ("body.5]", "in quotes"),
        ("{lr:", "in quotes"),
        ("..=1", ""),
    ],
)
def test_what_a_shell_made_of_an_override_is_told(word, advice):
    assert why_no_override(word).endswith(advice)
    assert bool(why_no_override(word)) == bool(advice)
