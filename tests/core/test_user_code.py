"""A user's own code by name: imported, or one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelSpace
from gkd.core.user_code import call_factory, import_object, is_import_name, told_of
from tests.refusals import refused

MODULE = """
NUMBER = 3
class Nested:
    @staticmethod
    def make(num_classes):
        return num_classes
def breaks(num_classes):
    raise ValueError("no such thing\\nand more")
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "imported_here.py").write_text(MODULE)
    (tmp_path / "breaks_at_once.py").write_text("import math\n1 / 0\n")
    (tmp_path / "refused_by_gkd.py").write_text(
        "import gkd.distill.inputs as i\ni.add_provider('labels', None, None)\n"
    )
    (tmp_path / "needs_more.py").write_text("import a_module_that_is_nowhere\n")


def test_the_current_folder_is_importable_and_paths_may_be_nested() -> None:
    assert import_object("imported_here:Nested.make", what="network")(num_classes=4) == 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b:c", True),
        ("a:b.c", True),
        ("a.b", False),
        ("timm/x", False),
        (":c", False),
        ("a:", False),
        (3, False),
    ],
)
def test_the_form_of_a_name(name: object, expected: bool) -> None:
    assert is_import_name(name) == expected


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("no colon", "import-name-form"),
        (
            "nowhere_at_all.nets:make",
            "module-missing",
        ),
        (
            "needs_more:make",
            "import-failed",
        ),
        (
            "breaks_at_once:make",
            "import-failed",
        ),
        ("refused_by_gkd:make", "provider-twice"),
        ("imported_here:Nestet", "unknown-name"),
        ("imported_here:NUMBER.small", "unknown-name"),
        ("imported_here:NUMBER", "not-a-callable"),
    ],
)
def test_what_cannot_be_imported_is_a_sentence(name: str, code: str) -> None:
    with refused(code):
        import_object(name, what="network")


def test_what_a_factory_raises_is_a_sentence() -> None:
    factory = import_object("imported_here:breaks", what="network")
    with refused("build-failed") as e:
        call_factory(factory, name="x", what="network", arguments={"num_classes": 2}, options={})
    assert "\n" not in str(e.value)
    with refused("keyword-missing"):
        call_factory(lambda: 0, name="x", what="network", arguments={"num_classes": 2}, options={})


def test_what_a_signature_does_not_take_is_left_out_where_that_is_asked_for() -> None:
    def built(factory: Any, **options: Any) -> Any:
        offered = {"num_classes": 2, "in_channels": 1}
        return call_factory(
            factory, name="x", what="network", arguments=offered, options=options, only_taken=True
        )

    assert built(lambda: "fixed") == "fixed"
    assert built(lambda num_classes, width=3: (num_classes, width), width=4) == (2, 4)
    assert built(lambda *, in_channels: in_channels) == 1
    assert built(lambda **given: given) == {"num_classes": 2, "in_channels": 1}
    assert built(dict) == {
        "num_classes": 2,
        "in_channels": 1,
    }  # a signature that takes any keyword, or none to read
    with refused("argument-missing"):
        built(lambda n_classes: n_classes)
    with refused("unknown-option"):
        built(lambda num_classes: num_classes, depth=3)


def test_what_a_third_partys_object_raises_is_told_of_it() -> None:
    class Theirs:
        pass

    with refused("own-code-fails"), told_of(Theirs(), "the task 'x' relates the classes"):
        raise KeyError("label")
    with refused("unknown-name"), told_of(Theirs(), "the task 'x' relates the classes"):
        raise UserError(unknown("name", "a", ["b"]), code="unknown-name")
    with pytest.raises(MemoryError), told_of(Theirs(), "x"):
        raise MemoryError
    with pytest.raises(ZeroDivisionError), told_of(LabelSpace(["a"]), "x"):
        raise ZeroDivisionError
