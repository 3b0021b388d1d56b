"""Why the weights of a file do not fit a network, as a sentence that names the setting to change."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.models.weight_match import Fit, head_entries, kept_in_parts
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weight_sets import listed

_POSITIONS = re.compile(r"pos_emb|position|absolute_pos|rel_pos|relative_coords|attn_mask|pos_bias|rpb")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Loading:
    """A weight file on its way into a network.

    Attributes:
        path: the file.
        name: the network's.
        section: the config section that errors name, such as ``student``; empty from Python.
        image_shape: ``(C, H, W)`` of the images here, where it is known.
        metadata: of the file.
        given_as: the key of the section that names it.
    """

    path: Path
    name: str
    section: str = ""
    image_shape: Sequence[int] | None = None
    metadata: WeightMetadata = field(default_factory=WeightMetadata)
    given_as: str = "checkpoint"

    @property
    def file(self) -> str:
        """The file in a sentence."""
        return (
            f"{self.section}.{self.given_as} {self.path}" if self.section else f"The checkpoint {self.path}"
        )

    def option(self, name: str) -> str:
        """An option of the section in a sentence."""
        return f"{self.section}.{name}" if self.section else name

    def of_images(self, name: str, value: int | None) -> str:
        """What to do about the images that the network sees: their ``channels`` or ``image_size``."""
        if not self.section:
            side = value or "SIDE"
            return (
                f"give in_channels={value}" if name == "channels" else f"give image_shape=(C, {side}, {side})"
            )
        key = f"data.{'teacher_view.' if self.section == 'teacher' else ''}{name}"
        return f"set {key}" if value is None else f"set {key}={value}"


def misfit(network: nn.Module, fit: Fit, loading: Loading, keys: Sequence[str]) -> UserError:
    """The error for weights that do not fit.

    Args:
        network: the network.
        fit: the nearest weights of the file.
        loading: the file.
        keys: of all sets of weights in it.
    """
    cause = _in_parts(fit, loading) or _no_head(network, fit, loading)
    if cause is not None:
        return cause
    if fit.missing or fit.surplus:
        example = f"{fit.missing[0]!r} is missing" if fit.missing else f"{fit.surplus[0]!r} is not part of it"
        several = f" Its weights stand under {listed(keys)}." if len(keys) > 1 else ""
        return UserError(
            f"The checkpoint {loading.path} holds another network than {loading.name} ({example}; "
            f"{len(fit.missing)} missing, {len(fit.surplus)} surplus entries); name the network it was trained as."
            f"{several}",
            code="other-network",
        )
    state = network.state_dict()
    head = head_entries(network, state)
    if set(fit.wrong) <= head and all(
        fit.tensors[key].shape[1:] == state[key].shape[1:] for key in fit.wrong
    ):
        return _other_classes(fit, state, loading)
    cause = _channels(network, fit, state, loading) or _image_size(network, fit, state, loading)
    if cause is not None:
        return cause
    key = fit.wrong[0]
    return UserError(
        f"The checkpoint {loading.path} holds another network than {loading.name}: {_shapes(key, fit, state)}; name "
        "the network, and its options, as it was trained.",
        code="other-network",
    )


def _in_parts(fit: Fit, loading: Loading) -> UserError | None:
    """The error for a file of the network whose layers keep their weights in parts."""
    kept = kept_in_parts(fit.missing, fit.surplus)
    if kept is None:
        return None
    whole, part, who, undo = kept
    return UserError(
        f"{loading.file} keeps {whole!r} in parts ({part!r} is one), as {who} of torch.nn.utils does; put them "
        f"together, by {undo} of each such module, and save the state dict anew.",
        code="weights-in-parts",
    )


def _no_head(network: nn.Module, fit: Fit, loading: Loading) -> UserError | None:
    """The error for a file that lacks the head alone."""
    head = head_entries(network, network.state_dict())
    if fit.surplus or fit.wrong or not head or set(fit.missing) != head:
        return None
    advice = "a student can start from it (student.checkpoint), and gets a new head"
    if loading.section == "teacher":
        advice = "a teacher does without, by teacher.classes=null"
    return UserError(
        f"{loading.file} has no head ({', '.join(map(repr, fit.missing))}), so it answers with no class; {advice}.",
        code="head-missing",
    )


def _shapes(key: str, fit: Fit, state: Mapping[str, Tensor]) -> str:
    return f"{key!r} is {list(fit.tensors[key].shape)} there and {list(state[key].shape)} here"


def _other_classes(fit: Fit, state: Mapping[str, Tensor], loading: Loading) -> UserError:
    key = fit.wrong[0]
    theirs, ours = len(fit.tensors[key]), len(state[key])
    if (theirs, ours) == (1, 2):
        return UserError(
            f"The checkpoint {loading.path} has one output ({key!r}), as a sigmoid between two classes has, and the "
            f"task has 2 columns; {two_columns(key)}",
            code="one-output",
        )
    count = f"the task has {ours}"
    advice = "give the network the classes that it was trained on, or other weights"
    if loading.section == "teacher":
        count = f"teacher.classes or the task names {ours}"
        advice = (
            f"name the {theirs} by teacher.classes (a list, a file of names, a label set such as imagenet-1k; null "
            "does without), or choose the task's to match"
        )
    return UserError(
        f"The checkpoint {loading.path} holds {theirs} classes ({key!r}), {count}; {advice}.",
        code="other-classes",
    )


def two_columns(key: str) -> str:
    """How the one output of a sigmoid becomes two columns of a softmax, which give the same probabilities."""
    layer = key.rpartition(".")[0]
    return (
        f"put a column of zeros before it, in {layer}.weight and {layer}.bias: torch.cat([torch.zeros_like(w), w]); "
        "the second class is then the one that the output stands for."
    )


def _channels(
    network: nn.Module, fit: Fit, state: Mapping[str, Tensor], loading: Loading
) -> UserError | None:
    """The error for weights of images of other channels: the first convolution says so, or a layer on the pixels."""
    theirs = None
    key = _entry_of_first(network, state, nn.Conv2d)
    if key in fit.wrong:
        there, here = fit.tensors[key].shape, state[key].shape
        if there[:1] + there[2:] == here[:1] + here[2:]:
            theirs, ours = there[1], here[1]
    key = key if theirs else _entry_of_first(network, state, nn.Linear)
    if theirs is None and key in fit.wrong and loading.image_shape is not None:
        ours, *size = loading.image_shape
        pixels = math.prod(size)
        inputs = fit.tensors[key].shape[-1]
        if state[key].shape[1] == ours * pixels and inputs in (pixels, 3 * pixels):
            theirs = inputs // pixels
    if theirs is None:
        return None
    remedy = loading.of_images("channels", theirs)
    if theirs not in (1, 3):
        remedy = "gkd reads images of 1 or 3 channels; take weights of such images"
    return UserError(
        f"{loading.file} was trained on images of {theirs} {'channel' if theirs == 1 else 'channels'} "
        f"({_shapes(key, fit, state)}), and the images that {loading.name} sees have {ours}; {remedy}.",
        code="other-channels",
    )


def _image_size(
    network: nn.Module, fit: Fit, state: Mapping[str, Tensor], loading: Loading
) -> UserError | None:
    """The error for weights of images of another size: position embeddings say so, or a layer on all of a map."""
    linear = {f"{path}.weight" for path, part in _modules(network) if isinstance(part, nn.Linear)}
    on_all = [
        key for key in fit.wrong if key in linear and fit.tensors[key].shape[:1] == state[key].shape[:1]
    ]
    positions = [key for key in fit.wrong if _POSITIONS.search(key)]
    if len(fit.wrong) not in (len(positions), len(on_all)) or len(on_all) > 1:
        return None
    size = None if loading.image_shape is None else loading.image_shape[-1]
    key, theirs = fit.wrong[0], None
    if loading.metadata.image_shape is not None:
        theirs = loading.metadata.image_shape[-1]
    elif loading.image_shape is not None and (
        positions or state[key].shape[-1] == math.prod(loading.image_shape)
    ):
        theirs = _size_of(fit.tensors[key], state[key], loading.image_shape[-1], positions=bool(positions))
    if theirs == size and theirs is not None:
        return None
    there = "another size" if theirs is None else f"{theirs}×{theirs} pixels"
    here = "" if size is None else f", and here they are {size}×{size}"
    said = loading.of_images("image_size", theirs)
    return UserError(
        f"{loading.file} was trained on images of {there} ({_shapes(key, fit, state)}){here}; {said}, and the "
        f"network's own option for it where it has one ({loading.option('options')}, such as img_size).",
        code="other-image-size",
    )


def _size_of(theirs: Tensor, ours: Tensor, size: int, *, positions: bool) -> int | None:
    """The side of the images in the file, from the side here and how many positions each has; None where it is open."""
    dimension = next(d for d, (a, b) in enumerate(zip(theirs.shape, ours.shape, strict=False)) if a != b)
    there, here = theirs.shape[dimension], ours.shape[dimension]
    for prefix in (0, 1, 2) if positions else (0,):
        ratio = (there - prefix) / max(here - prefix, 1)
        side = size * math.sqrt(max(ratio, 0))
        grids = [math.isqrt(max(count - prefix, 0)) ** 2 == count - prefix for count in (there, here)]
        if abs(side - round(side)) < 1e-9 and (all(grids) if positions else True):
            return round(side) or None
    return None


def _modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts by the names of the state dict, which of a tapped network are those of the module it wraps."""
    inner = getattr(network, "module", network)
    inner = inner if set(inner.state_dict()) == set(network.state_dict()) else network
    return list(inner.named_modules())


def _entry_of_first(network: nn.Module, state: Mapping[str, Tensor], kind: type[nn.Module]) -> str:
    """The name of the weight of the first module of a kind; empty without one."""
    paths = [path for path, part in _modules(network) if isinstance(part, kind)]
    key = f"{paths[0]}.weight" if paths else ""
    return key if key in state else ""


def converted(key: str, tensor: Tensor, like: Tensor, loading: Loading) -> Tensor:
    """A tensor of a file in the type of the network's entry.

    Raises:
        UserError: values of another kind than belong there, that are not finite, or a variance below zero.
    """
    kind = str(tensor.dtype).removeprefix("torch.")
    if like.is_floating_point() or like.is_complex():
        fits = tensor.dtype in _FLOATS or (like.is_complex() and tensor.is_complex())
        wanted = "floating-point weights"
    else:
        whole = tensor.dtype in _FLOATS and bool((tensor == tensor.round()).all())
        fits = tensor.dtype in _INTEGERS or whole or (like.dtype == torch.bool and tensor.dtype == torch.bool)
        wanted = "whole numbers" if like.dtype != torch.bool else "truth values"
    if not fits:
        raise UserError(
            f"{loading.file} holds {kind} in {key!r}, where {wanted} belong; save the weights as they were trained, "
            "before they were quantised or converted.",
            code="weights-of-another-kind",
        )
    values = tensor.to(like.dtype)
    if not bool(torch.isfinite(values).all()):
        raise UserError(
            f"The checkpoint {loading.path} holds values that are not finite in {key!r}: what trained it had diverged; "
            "use an earlier one.",
            code="weights-not-finite",
        )
    if key.endswith("running_var") and bool((values < 0).any()):
        raise UserError(
            f"The checkpoint {loading.path} holds a variance below zero in {key!r}, of which no network answers; the "
            "file is damaged, or is a difference of weights: use another one.",
            code="weights-not-finite",
        )
    return values
