"""What people call a class, and what a CLIP's text tower makes of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from gkd.core.class_vectors import ClassVectors
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.core.user_code import told
from gkd.models.clip import PREFIX, clip_file, open_clip, whole_clip
from gkd.models.pretrained import describe
from gkd.storage.cache_folder import NAMES, cache_folder
from gkd.storage.checksums import sha256
from gkd.storage.class_vector_files import read_class_vectors, write_class_vectors

TEMPLATE = "a photo of a {}."  # of CLIP's authors
_WORDNET = re.compile(r"n\d{8}")


def english_name(name: str) -> str:
    """What a prompt calls a class: of a WordNet id its first word, of any other name its words.

    ``n01443537`` and ``n01443537_fish`` are ``goldfish``, ``polar_bear`` is ``polar bear``.
    """
    found = _WORDNET.search(name)
    word = _lemma(found.group()) if found is not None else None
    return word or name.replace("_", " ").strip()


@lru_cache(maxsize=1)
def _wordnet() -> Any:
    """What timm knows of WordNet's ids, which it reads from a file; None without timm."""
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return None
    return ImageNetInfo("imagenet-22k")


def _lemma(wordnet_id: str) -> str | None:
    if _wordnet() is None:
        return None
    try:
        described = str(_wordnet().label_name_to_description(wordnet_id, detailed=False))
    except KeyError:
        return None
    return described.partition(",")[0].strip() or None


def vectors_of_names(
    space: LabelSpace,
    *,
    network: str,
    weights: Path | bool | str,
    options: Mapping[str, Any],
    template: str = TEMPLATE,
) -> ClassVectors:
    """What the text tower of a CLIP says to the names of classes, computed once and kept in gkd's cache.

    Args:
        space: the classes; WordNet's ids are put into words (``english_name``).
        network: ``open_clip/NAME``.
        weights: a file of both towers, or the set of weights (``pretrained``).
        options: of the network.
        template: the prompt, with ``{}`` in the name's place.

    Raises:
        UserError: another network, or a text tower that cannot be had here.
    """
    if not network.startswith(PREFIX):
        raise UserError(
            f"teacher.names={template!r} is read by a text tower, and {network!r} has none: give a file of class "
            f"vectors, or a network {PREFIX}NAME.",
            code="no-text-tower",
        )
    words = [english_name(name) for name in space]
    which = sha256(weights) if isinstance(weights, Path) else describe(network, weights).weights
    about = json.dumps([network, which, dict(options), template, space.names, words], sort_keys=True)
    path = cache_folder() / NAMES / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"
    source = f"The text tower of {network}"
    if path.is_file():
        try:
            return ClassVectors(space, read_class_vectors(path).ordered(space), source)
        except UserError:  # a damaged file is written anew
            pass
    model = (
        clip_file(weights, network, options)
        if isinstance(weights, Path)
        else _fetched(network, which, options)
    )
    prompts = [template.replace("{}", word) for word in words]
    vectors = ClassVectors(space, _encoded(model, network, prompts), source)
    write_class_vectors(path, vectors)
    return vectors


def _fetched(network: str, tag: str, options: Mapping[str, Any]) -> Any:
    try:
        return whole_clip(network, tag, options)
    except UserError:
        raise
    except Exception as error:  # of the hub, the disk or a damaged download: many kinds
        raise UserError(
            f"The text tower of {network} {tag} cannot be had here: {told(error)} Give the vectors of the class names "
            "in teacher.names=FILE.safetensors.",
            code="weights-not-fetched",
        ) from error


@torch.no_grad()
def _encoded(model: Any, network: str, prompts: list[str]) -> torch.Tensor:
    try:
        tokenizer = open_clip(network).get_tokenizer(network.removeprefix(PREFIX))
        rows = [model.encode_text(tokenizer(prompts[i : i + 256])) for i in range(0, len(prompts), 256)]
    except UserError:
        raise
    except Exception as error:  # a tokenizer of another package, or one that is fetched
        raise UserError(
            f"The text tower of {network} cannot read here: {told(error)} Give the vectors of the class names in "
            "teacher.names=FILE.safetensors.",
            code="no-text-tower",
        ) from error
    return torch.cat(rows).float()
