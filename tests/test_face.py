"""``import gkd``: quick, without torch, and all its names lead somewhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gkd


def test_the_import_loads_no_torch() -> None:
    """Nor anything else that is slow: what a name needs is imported when it is used."""
    heavy = ("torch", "numpy", "pydantic", "rich", "sklearn", "torchvision")
    code = f"import sys, gkd; dir(gkd); print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there() -> None:
    assert len(gkd.__all__) < 20
    for name in gkd.__all__:
        assert getattr(gkd, name) is not None
    assert set(gkd.__all__) < set(dir(gkd))
    assert gkd.losses.kd_loss is not None


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gkd' has no attribute 'distil'"):
        gkd.distil  # noqa: B018
