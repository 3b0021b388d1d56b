"""Load a network from a weight file: read its header, build the network, load its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gkd.core.errors import UserError
from gkd.core.tapped import TappedNetwork, output_shapes
from gkd.core.user_code import is_import_name
from gkd.models import EXTRACTORS, build_network
from gkd.models.cut_check import check_stages
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import load_weights, read_weights

# Parameters of build_network that an option must not be named after.
_NOT_OPTIONS = {"name", "num_classes", "in_channels", "taps"}


@dataclass(frozen=True)
class Loaded:
    """A network with the weights of a file, on the CPU and in train mode, and the file's metadata."""

    network: nn.Module
    metadata: WeightMetadata


def load_network(
    path: Path | str,
    *,
    network: str | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    options: Mapping[str, Any] | None = None,
    taps: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    image_shape: Sequence[int] | None = None,
    section: str = "",
) -> Loaded:
    """Build a network from the header of a weight file and the arguments, and load the weights strictly.

    Arguments left out are taken from the header; the others must agree with it. A torch file has no header.

    Args:
        path: a .safetensors file or a state dict that torch wrote.
        network: the name for ``build_network``. A header's ``pkg.module:name`` is not imported unless it is
            repeated here.
        num_classes: columns of the logits; by default as many as ``classes``.
        in_channels: channels of the images; by default those of ``image_shape``, of the file, or 3.
        options: further keywords of ``build_network``; empty takes those of the file.
        taps: the modules to tap; ``{}`` for the defaults of the network's family.
        classes: the names of the columns, in order; a file that states its classes must have the same.
        image_shape: ``(C, H, W)`` of an image on which a tapped network is tried.
        section: the config section that errors name, such as ``student``.

    Raises:
        UserError: a missing or unreadable file, too few or contradictory facts, or another network.
    """
    path = Path(path)
    tensors, header = read_weights(path)
    metadata = WeightMetadata.from_header(header, path)
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
    )
    load_weights(built, tensors, name=name, path=path)
    if classes is not None and metadata.classes not in (None, tuple(classes)):
        raise UserError(
            f"{_file(path, section)} has the columns {', '.join(metadata.classes or ())}, but the classes are "
            f"{', '.join(classes)}; give the file's, in that order.",
            code="other-classes",
        )
    return Loaded(built, metadata)


def build_for_images(
    name: str,
    *,
    num_classes: int,
    in_channels: int,
    image_shape: Sequence[int] | None,
    options: Mapping[str, Any],
    taps: Mapping[str, Any],
) -> nn.Module:
    """Build a network, and try a tapped one on one image, where the images' shape ``(C, H, W)`` is known.

    Raises:
        UserError: options or taps that the network does not have, or images that it cannot take.
    """
    network = build_network(name, num_classes=num_classes, in_channels=in_channels, taps=taps, **options)
    if isinstance(network, TappedNetwork) and image_shape is not None:
        output_shapes(network, image_shape)
        if network.stage_paths:
            check_stages(network, image_shape)
    return network


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
        UserError: the file states another network or other options.
    """
    if metadata.network is None:
        return dict(options)
    prefix = f"{section}." if section else ""
    if metadata.network != network:
        raise UserError(
            f"{_file(path, section)} was trained as {metadata.network!r}, but {prefix}network is {network!r}; set "
            f"{prefix}network={metadata.network}.",
            code="other-network",
        )
    # Stated options need not include the number of extractors, which grows by the step.
    stated = {key: value for key, value in metadata.options.items() if key != EXTRACTORS}
    if dict(options) not in ({}, stated, metadata.options):
        raise UserError(
            f"{_file(path, section)} was trained with the options {json.dumps(metadata.options)}, but "
            f"{prefix}options is {json.dumps(dict(options))}; drop {prefix}options, which takes those of the file.",
            code="other-options",
        )
    not_options = _NOT_OPTIONS & metadata.options.keys()
    if not_options:
        raise UserError(
            f"{path} says that its options hold {min(not_options)!r}, which gkd gives itself.",
            code="option-reserved",
        )
    return metadata.options


def _file(path: Path, section: str) -> str:
    """The name of a weight file in errors."""
    return f"{section}.checkpoint {path}" if section else f"The checkpoint {path}"


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
