"""gkd ls: the names that there are, and the patterns of those from elsewhere."""

from __future__ import annotations

from tests.cli_helpers import gkd


def test_ls_names_the_patterns(capsys):
    assert gkd("ls", "networks") == 0
    printed = capsys.readouterr().out
    for pattern in ("torchvision/NAME", "timm/NAME", "pkg.module:name"):
        assert pattern in printed
