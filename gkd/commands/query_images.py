"""The images that a command is asked about: single files, and all below a folder or in a zip, a part at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.data import ImageSet
from gkd.data.decoding import Form, decode
from gkd.data.image_files import EXTENSIONS, is_image, open_source, tree_of

PART = 1024  # images that are in memory at once


@dataclass(frozen=True)
class QueryImage:
    """An image file.

    Attributes:
        root: the folder or zip that it is in.
        path: of the file there, with ``/``.
        shown: its name in answers.
    """

    root: Path
    path: str
    shown: Path


def query_images(paths: Sequence[Path], *, follow_links: bool = False) -> list[QueryImage]:
    """Every image that is named: files as they are, of a folder or zip all image files anywhere below, by name.

    Args:
        paths: the files, folders and zips.
        follow_links: take files of a folder that are links to somewhere outside it.

    Raises:
        UserError: a path where nothing is, or a folder or zip without any image.
    """
    found = []
    for path in paths:
        if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
            with closing(open_source(path, follow_links=follow_links)) as source:
                inside = [each for each in tree_of(source, ()).stamps if is_image(each)]
            if not inside:
                raise UserError(
                    f"{path} holds no image; images end in {', '.join(EXTENSIONS)}.", code="no-image-inside"
                )
            found += [QueryImage(path, each, path / each) for each in inside]
        elif path.exists():
            found.append(QueryImage(path.parent, path.name, path))
        else:
            raise UserError(
                f"There is no image or folder {path}; name image files, or a folder or zip of them.",
                code="query-missing",
            )
    return found


def parts(
    images: Sequence[QueryImage], form: Form, *, follow_links: bool = False
) -> Iterator[tuple[list[Path], ImageSet]]:
    """The names and pixels of ``PART`` images at a time; their labels are placeholders.

    Raises:
        UserError: files that cannot be decoded, those of a part together.
    """
    for start in range(0, len(images), PART):
        part = images[start : start + PART]
        rows, broken = [], []
        for root, group in itertools.groupby(part, key=lambda image: image.root):
            with closing(open_source(root, follow_links=follow_links)) as source:
                for image in group:
                    try:
                        rows.append(pixels_of(decode(source, image.path, form)))
                    except UserError as error:
                        broken.append(error)
        if broken:
            others = f" So it is with {len(broken) - 1} more." if len(broken) > 1 else ""
            raise UserError(f"{broken[0]}{others}", code=broken[0].code)
        labels = torch.zeros(len(rows), dtype=torch.int64)
        yield [image.shown for image in part], ImageSet(torch.stack(rows), labels, LabelSpace(["query"]))


def pixels_of(image: np.ndarray) -> Tensor:
    """A decoded image, ``[H, W]`` or ``[H, W, C]``, as ``[C, H, W]``."""
    pixels = torch.from_numpy(image.copy())  # a decoder's own memory may be read-only
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
