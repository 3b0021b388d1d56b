"""Load a network from a weight file: read its header, build the network, load its tensors."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.short_repr import short_repr
from gkd.core.tapped import TappedNetwork, output_shapes
from gkd.core.user_code import is_import_name
from gkd.models import EXTRACTORS, PROJECTOR, build_network
from gkd.models.clip import PREFIX, of_image_tower
from gkd.models.cut_check import check_stages
from gkd.models.external import is_of_library, size_option
from gkd.models.foreign_options import refused_options
from gkd.models.image_sizes import nearest_sizes, options_for_images
from gkd.models.positions import with_positions_for
from gkd.models.weight_causes import Loading, converted, misfit, two_columns
from gkd.models.weight_match import Fit, Level, fits, former_place, head_entries
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weight_sets import WeightFile, is_averaged, listed, preferred
from gkd.storage.weights import read_weight_file

HeadOf = Literal["file", "either", "new", "none"]
# Parameters of build_network that an option must not be named after.
_NOT_OPTIONS = {"name", "num_classes", "in_channels", "taps"}


@dataclass(frozen=True)
class Loaded:
    """A network with the weights of a file, on the CPU and in train mode.

    Attributes:
        network: the network.
        metadata: of the file.
        notes: what a user should know of how the file was read, a sentence each.
    """

    network: nn.Module
    metadata: WeightMetadata
    notes: tuple[str, ...] = ()

    __repr__ = short_repr


def load_network(
    path: Path | str | WeightFile,
    *,
    network: str | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    options: Mapping[str, Any] | None = None,
    taps: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    image_shape: Sequence[int] | None = None,
    checkpoint_key: str | None = None,
    head: HeadOf = "file",
    section: str = "",
) -> Loaded:
    """Build a network from the header of a weight file and the arguments, and load the weights strictly.

    Arguments left out are taken from the header; the others must agree with it. A torch file has no header.

    Args:
        path: a .safetensors file or a state dict that torch wrote; or what was read of one.
        network: the name for ``build_network``. A header's ``pkg.module:name`` is not imported unless it is
            repeated here.
        num_classes: columns of the logits; by default as many as ``classes``.
        in_channels: channels of the images; by default those of ``image_shape``, of the file, or 3.
        options: further keywords of ``build_network``; empty takes those of the file.
        taps: the modules to tap; ``{}`` for the defaults of the network's family.
        classes: the names of the columns, in order; a file that states its classes must have the same.
        image_shape: ``(C, H, W)`` of an image on which a tapped network is tried.
        checkpoint_key: the entry of the file that holds the weights, such as ``state_dict_ema`` or ``model.student``;
            None takes the one that fits, or of trained and averaged weights of the same network the averaged ones.
        head: whose head the network has: ``file``; ``either``: a new one where the file's is of other classes; ``new``;
            ``none``: nobody reads it, whatever the file has, and it is of zeros.
        section: the config section that errors name, such as ``student``.

    Raises:
        UserError: a missing or unreadable file, too few or contradictory facts, or another network.
    """
    file = path if isinstance(path, WeightFile) else read_weight_file(Path(path))
    if (network or "").startswith(PREFIX):
        file = of_image_tower(file)
    path = file.path
    metadata = WeightMetadata.from_header(file.header, path)
    name = network or _named(metadata, path)
    built_with = options_as_trained(metadata, path, name, options or {}, section)
    shape = image_shape or metadata.image_shape
    built = build_for_images(
        name,
        num_classes=_num_classes(metadata, path, num_classes, classes),
        in_channels=_in_channels(metadata, in_channels, shape),
        image_shape=shape,
        options=built_with,
        taps=metadata.taps if taps is None else taps,
        section=section,
    )
    loading = Loading(path, name, section, shape, metadata, file.given_as)
    resampled: tuple[str, ...] = ()
    if (
        is_of_library(name)
        and shape is not None
        and options_for_images(name, built_with, shape) != built_with
    ):
        file, changed = with_positions_for(built, name, file)
        if changed:
            resampled = (
                f"{loading.file}: its position embeddings are resampled for images of {shape[-1]} pixels",
            )
    notes = put_weights(built, file, loading, checkpoint_key=checkpoint_key, head=head) + resampled
    if classes is not None and metadata.classes not in (None, tuple(classes)):
        raise UserError(
            f"{loading.file} has the columns {', '.join(metadata.classes or ())}, but the classes are "
            f"{', '.join(classes)}; give the file's, in that order.",
            code="other-classes",
        )
    return Loaded(built, metadata, notes)


def put_weights(
    network: nn.Module,
    file: WeightFile,
    loading: Loading,
    *,
    checkpoint_key: str | None = None,
    head: HeadOf = "file",
) -> tuple[str, ...]:
    """Load the weights of a file that fit a network, under whatever key and prefix they stand.

    Args:
        network: the network.
        file: what was read of the file.
        loading: what errors and notes say of it.
        checkpoint_key, head: as of ``load_network``.

    Returns:
        Notes for the user.

    Raises:
        UserError: weights of another network, of another class count, several that fit, or values that are none.
    """
    fit, notes = _chosen(network, file, loading, checkpoint_key, head)
    state = network.state_dict()
    tensors = dict(fit.tensors)
    if head in ("new", "none") or fit.level == Level.BODY:
        heads = head_entries(network, state)
        theirs = next((tensors[key] for key in fit.wrong), None)
        tensors = {key: tensor for key, tensor in tensors.items() if key not in heads}
        if head == "none":
            state = {key: torch.zeros_like(value) if key in heads else value for key, value in state.items()}
        else:
            notes.append(_new_head(theirs, fit, state, heads, loading))
    if fit.left_out:
        parts = dict.fromkeys(name.partition(".")[0] for name in fit.left_out)
        notes.append(f"{loading.file}: {listed(list(parts))} left out, which {loading.name} does not use")
    plain = {key: converted(key, tensor, state[key], loading) for key, tensor in tensors.items()}
    network.load_state_dict({**state, **plain})
    return tuple(notes)


def load_body(network: nn.Module, path: Path, *, name: str) -> None:
    """Load all of a weight file but the head, whose values stay the same.

    Raises:
        UserError: weights of another network.
    """
    put_weights(network, read_weight_file(path), Loading(path, name), head="new")


def _chosen(
    network: nn.Module, file: WeightFile, loading: Loading, key: str | None, head: HeadOf
) -> tuple[Fit, list[str]]:
    """The weights of a file that fit best, and a note where others fit as well."""
    option = loading.option("checkpoint_key")
    sets, former = file.sets, None
    if key is not None:
        sets = {key: file.under(key, option)}
    elif file.former is not None:
        former = former_place(file.sets[file.former], network, file.former)
    candidates = fits(network, loading.name, sets)
    needed = (Level.ALL,) if head == "file" else (Level.ALL, Level.BODY)
    fitting = [fit for fit in candidates if fit.level == max(candidates, key=lambda fit: fit.level).level]
    if fitting[0].level not in needed:
        nearest = next((fit for fit in fitting if fit.key == former), fitting[0])
        if fitting[0].level == Level.NOT:
            nearest = min(fitting, key=lambda fit: len(fit.missing) + len(fit.surplus))
        raise misfit(network, nearest, loading, list(sets))
    keys = [fit.key for fit in fitting]
    taken = preferred(keys, former)
    if taken is None:
        raise UserError(
            f"{loading.file} holds several networks that are {loading.name}, under {listed(keys)}; say which: "
            f"{option}={keys[0]}.",
            code="several-weights",
        )
    fit = next(fit for fit in fitting if fit.key == taken)
    file.check(fit.tensors)
    others = [key for key in keys if key != taken]
    if not others:
        return fit, []
    averaged = ", the averaged weights," if is_averaged(taken) else ""
    return fit, [
        f"{loading.file}: takes {taken or 'the bare names'}{averaged} and not {listed(others)}, which would fit too; "
        f"to choose: {option}={others[0]}"
    ]


def _new_head(
    theirs: Tensor | None, fit: Fit, state: Mapping[str, Tensor], head: set[str], loading: Loading
) -> str:
    """The note that a network's head is not the file's."""
    why = "its columns are other classes than the task's"
    if theirs is not None and theirs.dim() > 0:
        why = f"it has {len(theirs)} classes, and the task {len(state[fit.wrong[0]])}"
    elif head <= set(fit.missing):
        why = "it has no head of this kind"
    note = f"{loading.file}: {why}; the body is loaded, the head is new"
    if theirs is not None and len(theirs) == 1 and len(state[fit.wrong[0]]) == 2:
        note += f". To keep its one output, {two_columns(fit.wrong[0])}".removesuffix(".")
    return note


def build_for_images(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    image_shape: Sequence[int] | None,
    options: Mapping[str, Any],
    taps: Mapping[str, Any],
    section: str = "",
) -> nn.Module:
    """Build a network, and try a tapped one on one image, where the images' shape ``(C, H, W)`` is known.

    One of a library that is made for images of one size is made for these (``gkd.models.image_sizes``). ``section`` is
    the config section that errors name.

    Raises:
        UserError: options or taps that the network does not have, or images that it cannot take.
    """
    options = options_for_images(name, options, image_shape) if is_of_library(name) else options
    network = build_network(name, num_classes=num_classes, in_channels=in_channels, taps=taps, **options)
    if isinstance(network, TappedNetwork) and image_shape is not None:
        try:
            output_shapes(network, image_shape)
        except UserError as error:
            if error.code != "images-not-taken" or not is_of_library(name):
                raise
            raise _of_other_sizes(name, options, image_shape, section) or error from None
        if network.stage_paths:
            check_stages(network, image_shape)
    return network


def _of_other_sizes(
    name: str, options: Mapping[str, Any], image_shape: Sequence[int], section: str
) -> UserError | None:
    """The refusal of images of a size with the nearest sizes that the network takes; None where none are found."""
    sizes = nearest_sizes(name, options, image_shape)
    if not sizes:
        return None
    key, option = "teacher.image_size" if section == "teacher" else "data.image_size", size_option(name)
    made = ""
    if option is not None and option in options:
        made = f", made as it is by its option {option}={options[option]},"
    return UserError(
        f"The network {name!r}{made} takes no images of {'×'.join(map(str, image_shape[1:]))} pixels; set {key} to "
        f"the nearest that it takes, {' or '.join(map(str, sizes))}.",
        code="images-not-taken",
    )


def options_as_trained(
    metadata: WeightMetadata, path: Path, network: str, options: Mapping[str, Any], section: str = ""
) -> dict[str, Any]:
    """The options that weights were trained with: the stated ones, or else those of their file.

    Args:
        metadata: of the weight file.
        path: of the weight file, for errors.
        network, options: as the user states them; empty options take those of the file.
        section: the config section that errors name.

    Raises:
        UserError: the file states another network or other options, or ones that only the user may state.
    """
    if metadata.network is None:
        return dict(options)
    loading, prefix = Loading(path, network, section), f"{section}." if section else ""
    if metadata.network != network:
        raise UserError(
            f"{loading.file} was trained as {metadata.network!r}, but {prefix}network is {network!r}; set "
            f"{prefix}network={metadata.network}.",
            code="other-network",
        )
    # Stated options need not include the number of extractors, which grows by the step, and a method's projector.
    stated = {key: value for key, value in metadata.options.items() if key not in (EXTRACTORS, PROJECTOR)}
    if dict(options) not in ({}, stated, metadata.options):
        raise UserError(
            f"{loading.file} was trained with the options {json.dumps(metadata.options)}, but "
            f"{prefix}options is {json.dumps(dict(options))}; drop {prefix}options, which takes those of the file.",
            code="other-options",
        )
    not_options = _NOT_OPTIONS & metadata.options.keys()
    if not_options:
        raise UserError(
            f"{path} says that its options hold {min(not_options)!r}, which gkd gives itself.",
            code="option-reserved",
        )
    refused = {} if options else dict(refused_options(network, metadata.options))
    if refused:
        words = f"{prefix}options={json.dumps(metadata.options)}"
        raise UserError(
            f"{path} says that its network is built with {json.dumps(refused)}, and what builds it may open or run "
            f"what that names; if you trust it, state its options yourself: {shlex.quote(words) if section else words}",
            code="untrusted-options",
        )
    return metadata.options


def _named(metadata: WeightMetadata, path: Path) -> str:
    """The network's name in the header; one that would import code is refused."""
    name = metadata.network
    if name is None:
        raise UserError(
            f"The checkpoint {path} does not say its network; give network, such as 'resnet8'.",
            code="network-missing",
        )
    if is_import_name(name):
        raise UserError(
            f"The checkpoint {path} says that its network is {name!r}, and to import a module is to run it; if you "
            f"trust it, give network={name!r}.",
            code="untrusted-import",
        )
    return name


def _num_classes(
    metadata: WeightMetadata, path: Path, num_classes: int | None, classes: Sequence[str] | None
) -> int:
    """The columns of the logits: as stated, or else as in the file."""
    if num_classes is not None and classes is not None and num_classes != len(classes):
        raise UserError(
            f"num_classes is {num_classes}, but classes are {len(classes)}; leave num_classes out.",
            code="classes-disagree",
        )
    names = classes or metadata.classes
    if num_classes is not None:
        return num_classes
    if names is None:
        raise UserError(
            f"The checkpoint {path} does not say its classes; give num_classes or classes.",
            code="classes-missing",
        )
    return len(names)


def _in_channels(metadata: WeightMetadata, in_channels: int | None, shape: Sequence[int] | None) -> int:
    """The channels of the images: as stated, of the image shape, of the file's mean, or 3."""
    if in_channels is not None:
        return in_channels
    if shape is not None:
        return shape[0]
    return 3 if metadata.mean is None else len(metadata.mean)
