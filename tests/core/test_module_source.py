"""The source of a user's modules: found without importing anything, with the neighbours that it imports."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from gkd.core.module_source import forget_sources, source_of
from gkd.core.user_code import import_object
from tests.refusals import refused


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; what a module there would do on import would fail."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> str | None:
    """Write modules by their paths without ``.py``; the source of the first."""
    for name, content in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    forget_sources()
    return source_of(next(iter(files)).replace("/", "."))


def test_it_follows_the_file_and_imports_nothing(folder: Path) -> None:
    first = write(folder, {"own_net": "raise SystemExit\n"})
    assert first is not None
    assert len(first) == 16
    assert write(folder, {"own_net": "raise SystemExit \n"}) != first
    assert write(folder, {"own_net": "raise SystemExit\n"}) == first
    assert "own_net" not in sys.modules


@pytest.mark.parametrize(
    ("statement", "neighbour"),
    [
        ("import layers", "layers"),
        ("from layers import block", "layers"),
        ("import parts.layers as l", "parts/layers"),
        ("from parts import layers", "parts/layers"),
        ("def build():\n    from parts.layers import block\n", "parts/layers"),
        ("import between", "between_imports"),
    ],
)
def test_it_follows_the_neighbours_that_the_module_imports(
    folder: Path, statement: str, neighbour: str
) -> None:
    """By any form of import, and by way of another neighbour; what is not imported is no matter."""
    (folder / "between.py").write_text("import between_imports\n")
    (folder / "unused.py").write_text("1\n")
    path = folder / f"{neighbour}.py"
    path.parent.mkdir(exist_ok=True)
    names = []
    for content in ("1\n", "2\n"):
        path.write_text(content)
        names.append(write(folder, {"own_net": f"import torch, os\n{statement}\n"}))
        (folder / "unused.py").write_text(content)
    assert names[0] != names[1]
    (folder / "unused.py").write_text("3\n")
    assert write(folder, {"own_net": f"import torch, os\n{statement}\n"}) == names[1]


def test_relative_imports_and_the_packages_above(folder: Path) -> None:
    files = {
        "pack/nets/mine": "from ..layers import a\nfrom . import b\n",
        "pack/layers": "1",
        "pack/nets/b": "1",
    }
    files |= {"pack/__init__": "1", "pack/nets/__init__": "1"}
    first = write(folder, files)
    assert first is not None
    for name in files:
        assert write(folder, files | {name: f"{files[name]}\n#"}) != first, name
    assert write(folder, files) == first
    assert not {"pack", "pack.nets"} & set(sys.modules)


def test_a_folder_without_init_is_a_package_too(folder: Path) -> None:
    assert write(folder, {"plain/below/mine": "1"}) != write(folder, {"plain/below/mine": "2"}) is not None


def test_two_modules_that_import_each_other(folder: Path) -> None:
    first = write(folder, {"one": "import two\n", "two": "import one\n"})
    assert write(folder, {"one": "import two\n", "two": "import one\n#"}) != first


def test_an_installed_package_by_its_version_and_file(folder: Path) -> None:
    source = source_of("torch.optim.sgd")
    assert source is not None
    assert source.startswith(f"torch {version('torch')} ")
    assert source != source_of("torch.optim.adam")


@pytest.mark.parametrize(
    "module", ["no_such_module", "pack.no_such_part", "sys", "gkd.losses", "json.nothing.below"]
)
def test_what_has_no_file_or_is_gkds_own_has_no_source(folder: Path, module: str) -> None:
    write(folder, {"pack/__init__": ""})
    assert source_of(module) is None


def test_a_file_that_is_no_python_counts_by_its_bytes(folder: Path) -> None:
    assert write(folder, {"own_net": "def broken(:\n"}) != write(folder, {"own_net": "def broken(::\n"})


def test_a_module_that_was_edited_after_its_import_is_not_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process imports it once: in a notebook the former code would run under the name of the new one."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    write(folder, {"edited_net": "import edited_part\ndef net(): ...\n", "edited_part": "1\n"})
    assert callable(import_object("edited_net:net", what="network"))
    assert callable(import_object("edited_net:net", what="network"))
    write(folder, {"edited_part": "2\n"})
    with refused("module-edited"):
        import_object("edited_net:net", what="network")
    for name in ("edited_net", "edited_part"):
        del sys.modules[name]
    assert callable(import_object("edited_net:net", what="network"))
