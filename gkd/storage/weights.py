"""Weight files: written as safetensors, read in the formats that the field uses, loaded into a network."""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.storage.safetensors_format import write_safetensors
from gkd.storage.whole_files import write_whole


def state_hash(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of a module's parameters and buffers."""
    return tensors_hash(module.state_dict())


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """``state_hash`` of a state dict, which does not depend on how a file arranges it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a state dict as safetensors, as ``write_whole`` does; ``metadata`` becomes the header.

    Equal tensors and metadata are equal bytes.
    """
    plain = plain_tensors(tensors)
    write_whole(path, lambda aside: write_safetensors(aside, plain, metadata or {}))


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU and contiguous, no two in the same memory: safetensors refuses a module under two names."""
    plain: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if place in taken else tensor
        taken.add(place)
    return plain


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a state dict and its header from safetensors, or from a torch file read with weights_only.

    A file may hold the state dict itself or, as a torch file, have it under ``model`` or ``state_dict``;
    ``load_weights`` removes prefixes of its names. Of other objects only an ``argparse.Namespace``, in which
    training scripts keep their arguments, is read, and thrown away: it is a container of attributes, and none of
    its code runs when it is made.

    Raises:
        UserError: a missing, unreadable or unsafe file.
    """
    _check_file(path)
    if path.suffix == ".safetensors":
        with _safetensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch did not write; the error names them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"The checkpoint {path} cannot be read as plain weights: {_unreadable(error)}",
            code="checkpoint-unreadable",
        ) from None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    ):
        raise UserError(
            f"The checkpoint {path} holds no state dict: not bare, and not under 'model' or 'state_dict'.",
            code="no-state-dict",
        )
    return content, {}


def read_header(path: Path) -> dict[str, str]:
    """The header of a safetensors file, strings by name, without its tensors; a torch file has none and is not read.

    Raises:
        UserError: a missing or unreadable file.
    """
    _check_file(path)
    if path.suffix != ".safetensors":
        return {}
    with _safetensors(path, "numpy") as file:  # torch's reader asks for memory of the file's size
        return dict(file.metadata() or {})


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"The checkpoint {path} does not exist; give the path of a .safetensors or .pth file.",
            code="checkpoint-missing",
        )


@contextmanager
def _safetensors(path: Path, framework: str = "pt") -> Iterator[Any]:
    """An open safetensors file, whose tensors are read on demand; its errors become a ``UserError``."""
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except SafetensorError as error:
        raise UserError(
            f"The checkpoint {path} is not a readable safetensors file ({error}).",
            code="checkpoint-unreadable",
        ) from None


def _unreadable(error: Exception) -> str:
    """Why torch could not read a file, as the end of a sentence: other objects than tensors, or damage."""
    reason = " ".join(str(error).split())
    named = re.search(r"GLOBAL (\S+)", reason) or re.search(r"Unsupported class (\S+)", reason)
    if named is not None:
        return (
            f"it holds {named[1]}, and to load such an object can run code; save the state dict alone, as in "
            "torch.save(model.state_dict(), FILE)."
        )
    if "weights_only" in reason:
        return "it is a pickle of something else than weights; save the state dict alone by torch.save."
    return f"it is cut short, or is no file of torch.save ({reason[:120] or type(error).__name__})."


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], *, name: str, path: Path) -> None:
    """Load a state dict strictly, but for ``num_batches_tracked``, which old files lack.

    Where the names are not the network's, a prefix ``module.`` or ``module.student.`` (the layouts of the
    CIFAR benchmark) is removed, and wide residual networks in torchdistill's layout are renamed.

    Raises:
        UserError: weights of another network or of another class count.
    """
    state = network.state_dict()
    if not tensors.keys() <= state.keys():  # a part of the network may be called "module" too
        tensors = _from_torchdistill(_without_prefix(tensors), state)
    missing = [key for key in state if key not in tensors and not key.endswith("num_batches_tracked")]
    surplus = [key for key in tensors if key not in state]
    if missing or surplus:
        example = f"{missing[0]!r} is missing" if missing else f"{surplus[0]!r} is not part of it"
        raise UserError(
            f"The checkpoint {path} holds another network than {name} ({example}; "
            f"{len(missing)} missing, {len(surplus)} surplus entries); name the network it was trained as.",
            code="other-network",
        )
    wrong = [key for key, tensor in tensors.items() if tensor.shape != state[key].shape]
    if wrong:
        head = _head_entries(network, state)
        if set(wrong) <= head and all(tensors[key].shape[1:] == state[key].shape[1:] for key in wrong):
            raise UserError(
                f"The checkpoint {path} holds {len(tensors[wrong[0]])} classes ({wrong[0]!r}), the task has "
                f"{len(state[wrong[0]])}; give the network the classes that it was trained on, or other weights.",
                code="other-classes",
            )
        key = wrong[0]
        raise UserError(
            f"The checkpoint {path} holds another network than {name}: {key!r} is {list(tensors[key].shape)} there "
            f"and {list(state[key].shape)} here; name the network, and its options, as it was trained.",
            code="other-network",
        )
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"The checkpoint {path} holds values that are not finite in {key!r}: what trained it had diverged; "
                "use an earlier one.",
                code="weights-not-finite",
            )
    network.load_state_dict({**state, **tensors})


def load_body(network: nn.Module, path: Path, *, name: str) -> None:
    """Load all of a weight file but the head, whose values stay the same.

    Raises:
        UserError: weights of another network.
    """
    tensors, _ = read_weights(path)
    state = network.state_dict()
    head = {key: state[key] for key in _head_entries(network, state)}
    load_weights(network, {**tensors, **head}, name=name, path=path)


def _without_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors without a wrapper's prefix: of a wrapped distiller the student's alone, else all."""
    for prefix in ("module.student.", "module."):
        if any(name.startswith(prefix) for name in tensors):
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return tensors


def _from_torchdistill(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """torchdistill's names of a wide residual network as gkd's, where ``state`` then has them all."""
    renamed = {}
    for key, tensor in tensors.items():
        key = re.sub(r"^layer(\d)\.", r"block\1.layer.", key)
        renamed[key.replace(".shortcut.0.", ".convShortcut.")] = tensor
    return renamed if renamed.keys() <= state.keys() else tensors


def _head_entries(network: nn.Module, state: Mapping[str, Tensor]) -> set[str]:
    """The names of the head's entries in a state dict, found by memory, so with any wrapper's prefix."""
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Module):
        return set()
    places = {tensor.data_ptr() for tensor in head.state_dict().values()}
    return {key for key, tensor in state.items() if tensor.data_ptr() in places}


def copy_state(module: nn.Module) -> dict[str, Tensor]:
    """A detached copy of a module's state on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
