"""Match the names in a weight file to a network's: under which prefixes of wrappers its weights stand.

DataParallel, torch.compile, Lightning and distillers write a network's names behind their own. A prefix is found by
what stands behind it: the names of the network, all of them and no others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor, nn

from gkd.models.external import library_names
from gkd.models.foreign_names import renamed
from gkd.storage.weight_sets import WeightSets

# Wrappers that may stand inside a name too, where a part of the network was wrapped; no module is called so.
_WRAPPERS = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_COUNTERS = re.compile(r"(^|\.)total_(ops|params)$|^n_averaged$")  # of thop, and of torch's AveragedModel
_MODULE = "module."
_STUDENT = "module.student."


class Level(IntEnum):
    """How far weights fit a network."""

    NOT = 0
    NAMES = 1
    BODY = 2
    ALL = 3


@dataclass(frozen=True)
class Fit:
    """Weights of a file under the names of a network.

    Attributes:
        key: where they stand: the dotted key of the set and the prefix of the names.
        tensors: by the network's names, as far as it has them.
        left_out: the names of the file, behind the prefix, that are no part of the network and need not be.
        missing, surplus, wrong: the names that the file lacks, that the network lacks, and of another shape.
        level: how far they fit.
    """

    key: str
    tensors: Mapping[str, Tensor]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    wrong: tuple[str, ...]
    level: Level


def fits(network: nn.Module, name: str, sets: WeightSets) -> list[Fit]:
    """Every place in a file's sets whose names begin like the network's, with how far they fit.

    Args:
        network: the network.
        name: its name, by which the branches that its library builds and gkd does not are known.
        sets: dotted key -> state dict.
    """
    matcher = _Matcher.of(network, name)
    return [fit for key, tensors in sets.items() for fit in _fits_in(key, tensors, matcher)]


def _fits_in(key: str, tensors: Mapping[str, Tensor], matcher: _Matcher) -> list[Fit]:
    """The fits in one set, in the file's order; of none that has the network's names the nearest.

    What stands behind a longer prefix that fits does not belong to a shorter one: ``ema.conv1.weight`` beside
    ``conv1.weight``.
    """
    names = _without_inner_wrappers(tensors, matcher.state)
    first = {name: number for number, name in reversed(list(enumerate(names)))}
    found: list[tuple[int, Fit]] = []
    others: list[Fit] = []
    taken: set[str] = set()
    for prefix in sorted(_prefixes(names, matcher.state), key=len, reverse=True):
        below = [name for name in names if name.startswith(prefix) and name not in taken]
        if not below:
            continue
        place = ".".join(part for part in (key, prefix.removesuffix(".")) if part)
        fit = matcher.fit(place, {name.removeprefix(prefix): names[name] for name in below})
        if fit.level == Level.NOT:
            others.append(fit)
            continue
        taken.update(below)
        found.append((first[below[0]], fit))
    nearest = sorted(others, key=lambda fit: len(fit.missing) + len(fit.surplus))[:1]
    return [fit for _, fit in sorted(found, key=lambda each: each[0])] or nearest


def former_place(tensors: Mapping[str, Tensor], network: nn.Module, key: str) -> str:
    """The key of the weights that gkd took of a state dict before it knew other prefixes than ``module.``."""
    if tensors.keys() <= network.state_dict().keys():
        return key
    for prefix in (_STUDENT, _MODULE):
        if any(name.startswith(prefix) for name in tensors):
            return ".".join(part for part in (key, prefix.removesuffix(".")) if part)
    return key


def head_entries(network: nn.Module, state: Mapping[str, Tensor]) -> set[str]:
    """The names of the head's entries in a state dict, found by memory, so with any wrapper's prefix."""
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Module):
        return set()
    places = {tensor.data_ptr() for tensor in head.state_dict().values()}
    return {key for key, tensor in state.items() if tensor.data_ptr() in places}


# How torch keeps a tensor in parts that are put together in each forward pass -> who does so, and what undoes it.
_PARTS = {
    "{}_mask": ("pruning", "torch.nn.utils.prune.remove(module, {!r})"),
    "{}_u": ("a spectral norm", "torch.nn.utils.remove_spectral_norm(module, {!r})"),
    "{}_g": ("a weight norm", "torch.nn.utils.remove_weight_norm(module, {!r})"),
    "parametrizations.{}.original": (
        "a parametrisation",
        "torch.nn.utils.parametrize.remove_parametrizations(module, {!r})",
    ),
    "parametrizations.{}.original0": (
        "a parametrisation",
        "torch.nn.utils.parametrize.remove_parametrizations(module, {!r})",
    ),
}


def kept_in_parts(missing: Sequence[str], surplus: Sequence[str]) -> tuple[str, str, str, str] | None:
    """A missing tensor that is kept in parts, one of those, who keeps it so, and what puts it together; or None."""
    there = set(surplus)
    for whole in missing:
        layer, _, name = whole.rpartition(".")
        for form, (who, undo) in _PARTS.items():
            part = ".".join(filter(None, [layer, form.format(name)]))
            if part in there:
                return whole, part, who, undo.format(name)
    return None


def _prefixes(names: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> set[str]:
    """No prefix, and each one behind which the network's first or last name stands."""
    required = [name for name in state if not name.endswith("num_batches_tracked")]
    anchors = {required[0], required[-1]} if required else set()
    ends = [(name, anchor) for name in names for anchor in anchors if name.endswith(f".{anchor}")]
    return {"", *(name.removesuffix(anchor) for name, anchor in ends if name not in state)}


def _without_inner_wrappers(
    tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The tensors without the names of wrappers of parts, where that leaves no two of one name."""
    if any(_WRAPPERS.search(name) for name in state):
        return tensors
    names = {_WRAPPERS.sub("", name).removeprefix("."): tensor for name, tensor in tensors.items()}
    return names if len(names) == len(tensors) else tensors


@dataclass(frozen=True)
class _Matcher:
    """A network's names and what else a file of it may hold."""

    network: str
    state: Mapping[str, Tensor]
    head: set[str]
    head_path: str
    unused: Callable[[str], bool]

    @classmethod
    def of(cls, network: nn.Module, name: str) -> _Matcher:
        state = network.state_dict()
        head = head_entries(network, state)
        path = min(head, key=len).rpartition(".")[0] if head else ""
        buffers = {each for each, _ in getattr(network, "module", network).named_buffers()} - state.keys()
        branches = library_names(name) - state.keys()

        def unused(entry: str) -> bool:
            return entry in buffers or entry in branches or _COUNTERS.search(entry) is not None

        return cls(name, state, head, path, unused)

    def fit(self, place: str, tensors: dict[str, Tensor]) -> Fit:
        tensors = renamed(self.network, tensors, self.state)
        surplus = [name for name in tensors if name not in self.state]
        left_out = [name for name in surplus if self.unused(name)]
        surplus = [name for name in surplus if name not in left_out]
        own = {name: tensor for name, tensor in tensors.items() if name in self.state}
        missing = [
            name for name in self.state if name not in own and not name.endswith("num_batches_tracked")
        ]
        wrong = [name for name, tensor in own.items() if tensor.shape != self.state[name].shape]
        level = Level.NOT
        if not missing and not surplus:
            level = Level.NAMES if wrong else Level.ALL
        another_head = (
            self.head >= {*missing, *wrong}
            and all(self._of_head(name, tensors) for name in surplus)
            and kept_in_parts(missing, surplus) is None
        )
        if level < Level.ALL and self.head and another_head:
            level = Level.BODY if self._same_embedding(tensors, wrong) else level
        return Fit(place, own, tuple(left_out), tuple(missing), tuple(surplus), tuple(wrong), level)

    def _of_head(self, name: str, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a surplus entry belongs to a head of another kind: beside the network's parts, and no convolution."""
        parts = {each.partition(".")[0] for each in self.state.keys() - self.head}
        beside = name.startswith(f"{self.head_path}.") or name.partition(".")[0] not in parts
        return beside and tensors[name].dim() <= 2

    def _same_embedding(self, tensors: Mapping[str, Tensor], wrong: Sequence[str]) -> bool:
        return all(tensors[name].shape[1:] == self.state[name].shape[1:] for name in wrong)
