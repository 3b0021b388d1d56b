"""Torch files are read as plain weights: what could run code, or unpack to more than there is, is refused."""

from __future__ import annotations

import pickle
import struct
import tarfile
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gkd.core.errors import UserError
from gkd.storage.torch_files import read_torch_file
from tests.refusals import refused


class BigEndian:
    """A scalar as a machine of the other byte order writes it."""

    def __reduce__(self) -> Any:
        return np.float64(0).__reduce__()[0], (np.dtype(">f8"), struct.pack(">d", 2.5))


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        (np.float64(97.04), 97.04),
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        (np.str_("wrn"), "wrn"),
        (BigEndian(), 2.5),
    ],
)
def test_a_numpy_scalar_beside_the_weights_is_a_plain_number(tmp_path: Path, scalar: Any, value: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save({"best_acc": scalar, "w": torch.ones(2)}, path)
    assert read_torch_file(path)["best_acc"] == value
    assert type(read_torch_file(path)["best_acc"]) is type(value)


def test_a_scalar_of_an_old_numpy_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"best": np.float64(97.04)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    name = b"numpy._core.multiarray"
    old = content if name not in content else content.replace(name, b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in old
    path.write_bytes(old)
    assert read_torch_file(path) == {"best": 97.04}


class Runs:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_else_of_numpy_is_read(tmp_path: Path) -> None:
    path, sign = tmp_path / "w.pth", tmp_path / "harmed"
    scalar = np.float64(1).__reduce__()[0]
    for harm in (
        np.datetime64("2026-01-01"),
        np.random.default_rng(0),
        Runs(scalar, np.dtype("O"), Runs(Path.touch, sign)),
        Runs(scalar, np.dtype("f8"), b"four"),
        Runs(np.dtype, "f8,f8"),
    ):
        torch.save({"best": harm, "w": torch.ones(2)}, path)
        with refused("checkpoint-unreadable"):
            read_torch_file(path)
    assert not sign.exists()
    torch.save(np.ones(3), path)
    with pytest.raises(UserError, match="_reconstruct"):  # whose module depends on NumPy's version
        read_torch_file(path)
    torch.save({"arguments": Namespace(lr=0.1)}, path)
    assert read_torch_file(path)["arguments"].lr == 0.1
    assert not [each for each in torch.serialization.get_safe_globals() if "numpy" in each.__module__]


def test_a_zip_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    """A member that states 6 GiB, in a file of a few kilobytes; and zeros that were packed tightly."""
    path = tmp_path / "w.pth"
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("w/data/9", "w") as member:
        for _ in range(65):
            member.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    with refused("checkpoint-unreadable"):
        read_torch_file(path)
    content = path.read_bytes()
    stated, huge = (65 * 2**20).to_bytes(4, "little"), (4 * 2**30 - 2**20).to_bytes(4, "little")
    path.write_bytes(content.replace(stated, huge))
    with refused("checkpoint-unreadable"):
        read_torch_file(path)


def test_a_packed_file_of_weights_is_no_bomb(tmp_path: Path) -> None:
    path, packed = tmp_path / "w.pth", tmp_path / "packed.pth"
    torch.save({"w": torch.arange(1000.0)}, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    assert read_torch_file(packed)["w"].equal(torch.arange(1000.0))


def test_an_encrypted_member_is_said(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.ones(2)}, path)
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(signature)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(signature, place + 4)
    path.write_bytes(content)
    with refused("checkpoint-unreadable"):
        read_torch_file(path)


def test_other_files_of_torch_are_said(tmp_path: Path) -> None:
    """A program, a whole network, and the tar file that torch wrote before 0.4."""
    path = tmp_path / "w.pth"
    network = nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; its files are still there
        torch.jit.trace(network, torch.zeros(1, 2)).save(path)
    with refused("checkpoint-unreadable"):
        read_torch_file(path)
    torch.save(network, path)
    with refused("checkpoint-unreadable"):
        read_torch_file(path)
    for name in ("sys_info", "pickle", "storages", "tensors"):
        (tmp_path / name).write_bytes(pickle.dumps({}, protocol=2))
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.add(tmp_path / name, name)
    with refused("checkpoint-unreadable"):
        read_torch_file(path)
