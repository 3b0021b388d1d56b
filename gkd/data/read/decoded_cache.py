"""Decoded image sets on disk: written as a whole, checked when read, without pickled code."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from gkd.core.labels import LabelSpace
from gkd.data.images import ImageSet
from gkd.storage.cache_folder import cache_folder
from gkd.storage.safetensors_format import write_safetensors
from gkd.storage.whole_files import replace_whole


def _checksum(images: ImageSet, about: str) -> str:
    return hashlib.sha256((images.fingerprint() + about).encode()).hexdigest()


def read_cached(key: str, name: str) -> ImageSet | None:
    """The image set cached under ``key``, or None where there is none or its file is damaged."""
    path = cache_folder() / f"{key}.safetensors"
    if not path.is_file():
        return None
    # Whatever is wrong with a cache file (cut short, bits flipped, another format), the answer is the same:
    # it is made again. So every exception counts as damage.
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            about = json.loads(metadata["about"])
            images = ImageSet(
                file.get_tensor("images"),
                file.get_tensor("labels"),
                LabelSpace(about["classes"]),
                files=tuple(about["files"]),
                name=name,
            )
        if metadata["checksum"] == _checksum(images, metadata["about"]):
            return images
    except Exception:
        pass
    warnings.warn(f"The cache file {path} is damaged; the images are decoded again.", stacklevel=2)
    return None


def write_cached(key: str, images: ImageSet) -> None:
    """Cache an image set under ``key``; if it cannot be written, only warn."""
    about = json.dumps({"classes": images.space.names, "files": images.files})
    metadata = {"about": about, "checksum": _checksum(images, about)}
    assert isinstance(images.images, Tensor), "images on disk are not cached"
    tensors = {"images": images.images, "labels": images.labels}
    _keep(f"{key}.safetensors", lambda path: write_safetensors(path, tensors, metadata))


def read_text(key: str) -> str | None:
    """The text cached under ``key``, or None where there is none or its file is damaged."""
    try:
        checksum, _, text = (cache_folder() / f"{key}.txt").read_text(encoding="ascii").partition("\n")
    except (OSError, ValueError):
        return None
    return text if checksum == _text_checksum(key, text) else None


def write_text(key: str, text: str) -> None:
    """Cache an ASCII text under ``key``; if it cannot be written, only warn."""
    content = f"{_text_checksum(key, text)}\n{text}"
    _keep(f"{key}.txt", lambda path: path.write_text(content, encoding="ascii"))


def _text_checksum(key: str, text: str) -> str:
    return hashlib.sha256(f"{key} {text}".encode()).hexdigest()[:16]


def _keep(file_name: str, write: Callable[[Path], object]) -> None:
    folder = cache_folder()
    try:
        replace_whole(folder / file_name, write)
    except Exception as error:  # whatever it is, the next start reads the images again
        warnings.warn(
            f"What was read cannot be cached in {folder} ({error}); set GKD_CACHE to a writable folder.",
            stacklevel=3,
        )
