"""gkd ls: the names that there are, and the patterns of those from elsewhere."""

from __future__ import annotations

import json
import re

import pytest

from gkd.cli.arguments import KINDS
from gkd.cli.ls import own_names
from gkd.methods.optimiser_names import optimiser_names
from tests.cli_helpers import gkd, on_a_terminal
from tests.scripts import script


def test_ls_names_the_patterns(capsys):
    assert gkd("ls", "networks") == 0
    printed = capsys.readouterr().out
    for pattern in ("torchvision/NAME", "timm/NAME", "pkg.module:name"):
        assert pattern in printed


def test_the_file_of_names_is_of_the_registries_as_they_are():
    names = script("docs/names.py")
    # As mappings: a test that takes a loss out of the registry for a while puts it back at the end.
    assert json.loads(names.FILE.read_text()) == names.names(), "run python docs/names.py"
    assert set(json.loads(names.content())) == set(KINDS) - {"optimisers"}


def test_the_optimisers_are_those_of_the_torch_that_is_installed():
    assert list(own_names("optimisers")) == optimiser_names()


def test_a_plug_in_is_listed_and_not_imported(capsys, offer):
    for kind, group in (("methods", "gkd.methods"), ("data", "gkd.datasets"), ("tasks", "gkd.tasks")):
        offer(group, ("of_a_stranger", "no_such_package:thing"))
        assert gkd("ls", kind) == 0
        assert re.search(r"of_a_stranger +no_such_package:thing of the package", capsys.readouterr().out)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_lines_fit_the_terminal(columns):
    lines = on_a_terminal(columns, "ls", "tasks")
    assert lines[0].startswith("  cross_task ")
    assert max(map(len, lines)) <= min(columns, 100)
    assert "different classes, and different data sets." in " ".join(" ".join(lines).split())
