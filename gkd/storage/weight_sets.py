"""The sets of weights in a file: which entries are state dicts, and which of them is taken.

Training scripts keep the weights beside an optimiser, an epoch, arguments, and often twice: as they were trained and
averaged over the steps (EMA, SWA). The averaged ones are what such a script reports, so they are the default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.text import visible
from gkd.storage.torch_files import allowed_bytes

WeightSets = dict[str, dict[str, Tensor]]

_DEPTH = 4  # of nested dicts that are searched
_NOT_WEIGHTS = re.compile(r"optim|^opt$|sched|scaler|^amp$|rng|loss_scale")
_AVERAGED = {"ema", "swa", "averaged", "average", "avg", "polyak", "shadow", "moving"}
# Words that say that an entry is a network's weights, not whose.
_GENERIC = {
    "model",
    "state",
    "dict",
    "net",
    "network",
    "weights",
    "params",
    "module",
    "orig",
    "mod",
    "checkpoint",
}
_SHOWN = 12  # keys in an error


def weight_sets(content: Any) -> WeightSets:
    """The state dicts in a file's content by their dotted keys, in the file's order; ``""`` is the content itself.

    A state dict is a mapping of names to tensors; numbers and strings may stand among them. What belongs to an
    optimiser, a schedule or a random generator is none.
    """
    return dict(_sets(content, "", _DEPTH))


def _sets(content: Any, key: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or depth < 0 or "param_groups" in content:
        return
    if not all(isinstance(name, str) for name in content):
        return
    below = False
    for name, value in content.items():
        if _NOT_WEIGHTS.search(name.lower()) is None:
            for found in _sets(value, f"{key}.{name}" if key else name, depth - 1):
                below = True
                yield found
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    others = [value for value in content.values() if not isinstance(value, Tensor)]
    if tensors and not below and not any(isinstance(value, (Mapping, list, tuple)) for value in others):
        yield key, tensors


def former_key(content: Any) -> str | None:
    """The key of the entry that gkd took before it knew of others: under ``model``, under ``state_dict``, or bare."""
    keys: list[str] = []
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content, keys = content[key], [*keys, key]
    bare = isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())
    return ".".join(keys) if bare else None


def is_averaged(key: str) -> bool:
    """Whether a key says that its weights are averaged over the steps, as ``state_dict_ema`` does."""
    return not _AVERAGED.isdisjoint(_words(key))


def are_kin(key: str, other: str) -> bool:
    """Whether two keys name weights of the same network: ``model`` and ``model_ema``, but not ``student``."""
    return _whose(key) == _whose(other)


def _whose(key: str) -> set[str]:
    return _words(key) - _AVERAGED - _GENERIC


def _words(key: str) -> set[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key)
    return {word for word in re.split(r"[^a-z]+", apart.lower()) if word}


def preferred(keys: Sequence[str], former: str | None) -> str | None:
    """The one of several keys that is taken by default; None where nothing says which.

    Args:
        keys: of weights that fit.
        former: the one that an earlier version of gkd took.

    Returns:
        The averaged weights of the former key, or that key itself; without it the only key, or the averaged one of
        two that name the same network.
    """
    if former is not None and former in keys:
        partners = [key for key in keys if is_averaged(key) and are_kin(key, former)]
        return partners[0] if len(partners) == 1 and not is_averaged(former) else former
    if len(keys) == 1:
        return keys[0]
    averaged = [key for key in keys if is_averaged(key)]
    if len(keys) == 2 and len(averaged) == 1 and are_kin(*keys):
        return averaged[0]
    return None


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds.

    Attributes:
        path: the file.
        header: the strings that it states by name; empty of a torch file.
        sets: dotted key -> state dict; at least one.
        former: the key that an earlier version of gkd took; None where it refused the file.
        given_as: the key of a config that names it: ``checkpoint``, or ``pretrained`` where a library published it.
    """

    path: Path
    header: Mapping[str, str]
    sets: WeightSets
    former: str | None
    given_as: str = "checkpoint"

    def under(self, key: str, option: str = "checkpoint_key") -> dict[str, Tensor]:
        """The tensors under a dotted key, which may reach into the names of a state dict: ``model.student``.

        Args:
            key: the entry.
            option: what the user calls the key, for the error.

        Raises:
            UserError: no such entry, or one that holds several.
        """
        if key in self.sets:
            return self._dense(self.sets[key])
        inside = [each for each in self.sets if each.startswith(f"{key}.")]
        if len(inside) == 1:
            return self._dense(self.sets[inside[0]])
        below = {} if inside else self._below(key)
        if not below:
            raise UserError(
                f"The checkpoint {self.path} has no weights under {option}={key}; it has: "
                f"{listed(inside or self.keys())}.",
                code="unknown-checkpoint-key",
            )
        return self._dense(below)

    def _below(self, key: str) -> dict[str, Tensor]:
        """The tensors of the first set that has names behind a key, which begins with the set's own; else none."""
        for each, tensors in self.sets.items():
            if each and not key.startswith(f"{each}."):
                continue
            prefix = f"{key.removeprefix(f'{each}.') if each else key}."
            below = {
                name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
            }
            if below:
                return below
        return {}

    def default(self) -> dict[str, Tensor]:
        """The state dict that is taken of a file whose network is not known.

        Raises:
            UserError: several, and nothing says which.
        """
        key = preferred(list(self.sets), self.former)
        if key is None:
            raise UserError(
                f"The checkpoint {self.path} holds several sets of weights, under {listed(self.sets)}; say which: "
                f"checkpoint_key={next(iter(self.sets))}.",
                code="several-weights",
            )
        return self._dense(self.sets[key])

    def keys(self) -> list[str]:
        """The keys that an error lists: of the sets, or of a bare state dict the first parts of its names."""
        if list(self.sets) != [""]:
            return [key or "(bare)" for key in self.sets]
        return list(dict.fromkeys(name.partition(".")[0] for name in self.sets[""]))

    def tensors_of_run(self, key: str | None) -> dict[str, Tensor]:
        """The tensors that decide a run which loads this file: those under ``key``, else all that may be chosen."""
        if key is not None:
            return self.under(key)
        if len(self.sets) == 1:
            return self._dense(next(iter(self.sets.values())))
        return self._dense(
            {
                f"{each}:{name}": value
                for each, tensors in self.sets.items()
                for name, value in tensors.items()
            }
        )

    def is_as_before(self, key: str | None) -> bool:
        """Whether an earlier version of gkd took the same weights of this file as are taken now."""
        if self.former is None or key is not None:
            return key is not None and key == self.former
        names = {name.rpartition(".")[0] for name in self.sets.get(self.former, {})}
        parts = any(is_averaged(name) for name in names) and not all(is_averaged(name) for name in names)
        return not parts and preferred(list(self.sets), self.former) == self.former

    def _dense(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        self.check(tensors)
        return tensors

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse tensors that are no plain arrays, or more than the file can hold.

        Raises:
            UserError: a sparse, nested, quantised or meta tensor, or views larger than the file.
        """
        for name, tensor in tensors.items():
            kind = _kind(tensor)
            if kind is not None:
                raise UserError(
                    f"The checkpoint {self.path} holds in {name!r} a {kind[0]}; {kind[1]}, and save the state dict "
                    "anew.",
                    code="not-plain-weights",
                )
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if self.path.is_file() and needed > allowed_bytes(self.path):
            raise UserError(
                f"The checkpoint {self.path} states tensors of {needed / 2**30:.1f} GiB, in a file of "
                f"{self.path.stat().st_size / 2**20:.1f} MiB: views of a few values, which are no weights; save the "
                "state dict of the network that was trained.",
                code="not-plain-weights",
            )


def _kind(tensor: Tensor) -> tuple[str, str] | None:
    """What a tensor is that holds no plain array, and what to do; None of one that does."""
    if tensor.is_nested:
        return "nested tensor", "a network's weights are not nested: take them from its state_dict()"
    if tensor.is_quantized:
        return "quantised tensor", "take the weights from before quantising, or dequantize() each"
    if tensor.device.type == "meta":
        return "meta tensor, which has a shape and no values", "load the network's weights before saving it"
    if tensor.layout != torch.strided:
        return f"sparse tensor ({tensor.layout})", "call to_dense() on it"
    return None


def listed(keys: Sequence[str] | Mapping[str, Any]) -> str:
    """Keys in a sentence, the first few of many."""
    shown = [visible(key) or "(bare)" for key in keys]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
