"""Every data set by name, and ``load_images``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import get_args

from gkd.core.errors import UserError, unknown
from gkd.core.memory import check_memory
from gkd.core.plugins import entry_point_table, load_plugin, plugin
from gkd.core.user_code import FORM, call_factory, import_object, is_import_name
from gkd.data.decoding import Form
from gkd.data.image_files import Source
from gkd.data.images import ImageSet
from gkd.data.read.arrays import ARRAYS, BUNDLED, Reader
from gkd.data.read.content import content_of
from gkd.data.read.layouts import LAYOUTS, Layout, scan
from gkd.data.read.listing import Split, decoded_bytes, load_split, stream_split
from gkd.data.read.origins import open_set
from gkd.data.read.torch_dataset import from_dataset
from gkd.storage.preprocessing import Exif, Fit, Interpolation

# Every data set by name: those that come as arrays, and those that are image files in some layout.
DATASETS: Mapping[str, Reader | Layout] = {**ARRAYS, **LAYOUTS}
GROUP = "gkd.datasets"  # of entry points; each is a factory, as a ``pkg.module:name`` is
_WHAT = "data set"


def check_dataset_name(name: str) -> None:
    """Raise a UserError for a name that is in no table and not ``pkg.module:name``; import nothing."""
    if name in entry_point_table(GROUP):
        plugin(GROUP, name, what=_WHAT, ours=DATASETS)  # refuses the name of a built-in data set
    elif name not in DATASETS and not is_import_name(name):
        allowed = [*DATASETS, *entry_point_table(GROUP)]
        raise UserError(
            f"{unknown(_WHAT, name, allowed)} Or one of your own: {FORM}.", code="unknown-data-set"
        )


def why_unread(name: str, root: Path | None) -> str | None:
    """The reason why a data set's classes cannot be read before a run starts; None where they can.

    Image files have to be at their root; arrays are bundled, or may have to be downloaded.
    """
    if name in LAYOUTS:
        return f"the images are not there ({root})" if root is None or not root.exists() else None
    return None if name in BUNDLED else f"{name} is read when a run starts"


def load_images(
    name: str,
    split: Split,
    *,
    root: Path | None = None,
    download: bool = False,
    channels: int | None = None,
    image_size: int | None = None,
    fit: Fit = "stretch",
    exif: Exif = "apply",
    interpolation: Interpolation = "bilinear",
    follow_links: bool = False,
    memory_gb: float = math.inf,
    workers: int = 0,
) -> ImageSet:
    """Load one split of a data set by name.

    Args:
        name: a key of :data:`DATASETS`, or a factory: a plug-in's name or your own ``pkg.module:name``, imported
            and called as ``factory(split=split, root=root)`` for a data set that :func:`~gkd.data.from_dataset` takes.
        split: ``"train"`` or ``"test"``; ``"validation"`` where image files have such a split.
        root: for image files their directory or zip; for torchvision's data sets the folder of their files
            (None: ``datasets`` in gkd's cache folder); ``digits`` needs none; a factory gets it as it is.
        download: fetch a missing torchvision data set.
        channels: 1 or 3; None keeps the data's own, and refuses grey image files among colour ones.
        image_size: pixels of a square to which every image is resized (antialiased); None keeps the data's own.
        fit: of image files: ``stretch`` does not keep the aspect ratio, ``crop`` takes the square in the middle
            (:class:`gkd.data.decoding.Form`).
        exif: of image files: ``apply`` turns each as its EXIF orientation says, ``ignore`` leaves it as it is stored.
        interpolation: by which images are resized.
        follow_links: take image files that are links to somewhere outside a directory ``root``, which are refused else.
        memory_gb: GiB; image files whose pixels take more, all splits together, are streamed from disk.
        workers: processes that decode streamed images.

    Returns:
        The images on the CPU, or on disk; classes in the data's natural order.

    Raises:
        UserError: an unknown name or split, or data that cannot be read: one sentence on what to do.
    """
    check_dataset_name(name)
    if split not in get_args(Split):
        raise UserError(unknown("split", split, get_args(Split)), code="unknown-split")
    root = None if root is None else Path(root).expanduser()
    if name in LAYOUTS:
        if root is None:
            what = " of SPLIT/CLASS/FILE" if name == "folder" else " of its files"
            raise UserError(
                f"The data {name!r} needs data.root: the path of a zip or a folder{what}.",
                code="needs-data-root",
            )
        form = Form(channels, image_size, fit, exif, interpolation=interpolation)
        with closing(open_set(name, root, follow_links=follow_links)) as source:
            return read_files(source, name, split, root, form, memory_gb, workers)
    if fit != "stretch":
        raise UserError(
            f"fit={fit} is for image files; {name} comes as arrays, so leave it out.",
            code="needs-image-files",
        )
    if exif != "apply":
        raise UserError(
            f"exif={exif} is for image files that gkd decodes; {name} hands over pixels, so leave it out.",
            code="needs-image-files",
        )
    if name not in ARRAYS:
        arguments = {"split": split, "root": root}
        factory = (
            import_object(name, what=_WHAT) if is_import_name(name) else load_plugin(GROUP, name, what=_WHAT)
        )
        dataset = call_factory(factory, name=name, what=_WHAT, arguments=arguments, options={})
        return from_dataset(
            dataset, channels=channels, image_size=image_size, fit=fit, interpolation=interpolation, name=name
        )
    if split == "validation":
        raise UserError(
            f"{name} has no validation split of its own; use 'train' or 'test'.", code="split-missing"
        )
    return ARRAYS[name](
        split,
        root=root,
        download=download,
        channels=channels,
        image_size=image_size,
        interpolation=interpolation,
    )


def read_files(
    source: Source,
    name: str,
    split: Split,
    root: Path,
    form: Form,
    memory_gb: float,
    workers: int,
) -> ImageSet:
    """Load a split into memory if all splits together fit there; stream it from disk otherwise."""
    shown = root.stem if name == "folder" else name
    listing = scan(name, source)
    content, size = content_of(source, listing), decoded_bytes(source, listing, form)
    if size <= memory_gb * 2**30:
        check_memory(
            size,
            f"The {sum(len(part.files) for part in listing.splits.values())} images of {shown}, decoded,",
            "give a smaller data.image_size, or data.memory_gb=0 to have them read from disk",
        )
        return load_split(source, listing, split, form, content=content.sha256, name=shown)
    turned = form.exif == "apply" and content.turned > 0
    return stream_split(source, listing, split, form, root=root, turned=turned, workers=workers, name=shown)
