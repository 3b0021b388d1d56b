"""Weight files: written as safetensors, read in the formats that the field uses, loaded into a network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.storage.manifest import check_beside_its_run
from gkd.storage.safetensors_format import write_safetensors
from gkd.storage.torch_files import read_torch_file
from gkd.storage.weight_sets import WeightFile, former_key, listed, weight_sets
from gkd.storage.whole_files import write_whole

_PROGRAMS = (".onnx", ".pt2")


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


def read_weights(path: Path, key: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a state dict and its header from safetensors, or from a torch file read with weights_only.

    Args:
        path: the file.
        key: the entry of a torch file, such as ``state_dict_ema`` or ``model.student``; None takes the one there is,
            or of two that are the same network's, trained and averaged, the averaged one.

    Raises:
        UserError: a missing, unreadable or unsafe file, or several sets of weights of which none is named.
    """
    file = read_weight_file(path)
    return (file.default() if key is None else file.under(key)), dict(file.header)


def read_weight_file(path: Path) -> WeightFile:
    """Read all sets of weights in a file.

    Raises:
        UserError: a missing, unreadable or unsafe file, or one without any.
    """
    _check_file(path)
    if path.suffix == ".safetensors":
        with _safetensors(path) as file:
            header = dict(file.metadata() or {})
            content: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return WeightFile(path, header, {"": content}, "")
    content = read_torch_file(path)
    sets = weight_sets(content)
    if not sets and isinstance(content, dict) and any("packed_params" in str(key) for key in content):
        raise UserError(
            f"The checkpoint {path} holds the weights of a quantised network, packed for its kernels; take those from "
            "before quantising.",
            code="not-plain-weights",
        )
    if not sets:
        held = f"a {type(content).__name__}"
        if isinstance(content, dict):
            held = f"the entries {listed([str(key) for key in content])}" if content else "nothing"
        raise UserError(
            f"The checkpoint {path} holds no state dict, which maps names to tensors: it holds {held}; save it by "
            "torch.save(model.state_dict(), FILE).",
            code="no-state-dict",
        )
    return WeightFile(path, {}, sets, former_key(content))


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
    if path.suffix.lower() in _PROGRAMS:
        raise UserError(
            f"The checkpoint {path} is a program, not weights; give the .safetensors or .pth file of the same network.",
            code="program-not-weights",
        )
    check_beside_its_run(path)


@contextmanager
def _safetensors(path: Path, framework: str = "pt") -> Iterator[Any]:
    """An open safetensors file, whose tensors are read on demand; its errors become a ``UserError``."""
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:  # a type that this torch lacks
        raise UserError(
            f"The checkpoint {path} is not a readable safetensors file ({error}).",
            code="checkpoint-unreadable",
        ) from None


def copy_state(module: nn.Module) -> dict[str, Tensor]:
    """A detached copy of a module's state on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
