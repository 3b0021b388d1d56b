"""Layouts of image files by data set: each turns a directory or a zip into a Listing.

Class folders are here, well-known data sets in :mod:`gkd.data.read.published_layouts`. A layout opens no image. All of
them skip hidden files and files that are not images, read a directory and a zip alike, and allow one enclosing
folder around everything.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from gkd.core.errors import UserError, unknown
from gkd.data.image_files import EXTENSIONS, Source, Tree, is_image, tree_of
from gkd.data.read.listing import Listing, listing_from
from gkd.data.read.origins import open_set
from gkd.data.read.published_layouts import PUBLISHED

# Lists the files of an open source; raises a UserError where they are not in the layout.
Layout = Callable[[Source], Listing]


_SPLITS = ("train", "test", "val")


_Classes = dict[str, list[str]]  # class -> its files


def scan_folder(source: Source) -> Listing:
    """Your own images: a directory or zip of SPLIT/CLASS/FILE at ``root``.

    SPLIT is ``train``, ``test`` and ``val`` (the validation split beside ``test``, the test split without
    it). Files may lie deeper below their class. Classes, and the files of a class, are sorted by name. Splits
    without a common class (few-shot data) each have their own classes.

    Raises:
        UserError: no such folders, a class without images, or in the training or the test split only.
    """
    tree = tree_of(source, _SPLITS)
    folders = _class_files(tree)
    splits = _with_test({split: folders[split] for split in _SPLITS if folders.get(split)})
    if not splits:
        flat = f"{len(tree.stamps)} files without a folder" if tree.stamps else "nothing"
        raise UserError(
            f"{tree.label} has no folder 'train', 'test' or 'val' with class folders in it (found: "
            f"{', '.join(sorted(folders)[:10]) or flat}); arrange the images as SPLIT/CLASS/FILE.",
            code="split-folders-missing",
        )
    ordered = {split: {name: classes[name] for name in sorted(classes)} for split, classes in splits.items()}
    return listing_from(tree, ordered, hint="add images or remove the class folder")


def scan_imagenet(source: Source) -> Listing:
    """ImageNet (ILSVRC 2012): 1,000 classes of photographs, 1,281,167 to train on and 50 of each to test on.

    Class folders: ``train/WNID/FILE`` and ``val/WNID/FILE``, the archive of validation images sorted into the folders
    of their classes. These labelled ``val`` images are the test split. A subset of the classes is read as well.

    Raises:
        UserError: no such folders, a class without images, or in one of the two splits only.
    """
    listing = scan_folder(source)
    if set(listing.splits) != {"train", "test"}:
        raise UserError(
            f"{source.label} has class folders in {', '.join(sorted(listing.splits))} alone, and ImageNet needs them "
            "in train and val; sort its images into train/WNID/FILE and val/WNID/FILE.",
            code="split-folders-missing",
        )
    return listing


def scan_step_folders(source: Source) -> Listing:
    """Images that arrive in steps: a directory or zip of STEP/SPLIT/CLASS/FILE at ``root``.

    Each step is a folder as `folder` reads it, and its classes are named STEP/CLASS. Steps are in the order of
    their names, where numbers count as numbers (2 before 10), and the classes of a step are sorted by name.

    Raises:
        UserError: no such folders, or a class without images, or in the training or the test split only.
    """
    paths = [path.split("/") for path, _ in source.entries()]
    steps = {step for parts in paths for step, split in pairwise(parts[:-1]) if split in _SPLITS}
    tree = tree_of(source, sorted(steps))
    ordered: dict[str, _Classes] = {}
    tops = sorted({path.split("/", 1)[0] for path in tree.stamps})
    for step in sorted(tops, key=_by_number):  # a stable sort, for names such as 2 and 02
        inside = _class_files(tree, f"{step}/")
        split_folders = {split: files for split, files in inside.items() if split in _SPLITS}
        if steps and not split_folders and tree.under(f"{step}/"):
            raise UserError(
                f"The step '{step}' of {tree.label} has no folder 'train', 'test' or 'val' (found: "
                f"{', '.join(sorted(inside)[:10]) or 'images alone'}); arrange its images as STEP/SPLIT/CLASS/FILE, or "
                "remove it.",
                code="split-folders-missing",
            )
        for split, classes in _with_test(split_folders).items():
            ordered.setdefault(split, {}).update(
                {f"{step}/{name}": classes[name] for name in sorted(classes)}
            )
    if not any(ordered.values()):
        raise UserError(
            f"{tree.label} has no folders of steps with 'train', 'test' or 'val' in them (found: {tree.shown}); "
            "arrange the images as STEP/SPLIT/CLASS/FILE.",
            code="step-folders-missing",
        )
    return listing_from(tree, ordered, hint="add images or remove the class folder")


def _by_number(name: str) -> tuple[tuple[int, str], ...]:
    """A key that sorts the numbers within names as numbers."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


def _class_files(tree: Tree, below: str = "") -> dict[str, _Classes]:
    """Images as split -> class -> paths, from the folders at the top or those ``below`` a folder (``"1/"``)."""
    folders: dict[str, _Classes] = {}
    for path in tree.stamps:
        if not path.startswith(below):
            continue
        parts = path.removeprefix(below).split("/")
        if len(parts) == 2:  # a file beside the classes, or the split's own entry
            folders.setdefault(parts[0], {})
        elif len(parts) > 2:
            files = folders.setdefault(parts[0], {}).setdefault(parts[1], [])
            if is_image(path):
                files.append(path)
    return folders


def _with_test(folders: dict[str, _Classes]) -> dict[str, _Classes]:
    """Name the splits: ``val`` is the validation split beside ``test``, and the test split without it."""
    splits = {split: folders[split] for split in ("train", "test") if folders.get(split)}
    if folders.get("val"):
        splits["validation" if "test" in splits else "test"] = folders["val"]
    return splits


def scan_unlabelled(source: Source) -> Listing:
    """Images without labels: a directory or zip of image files at any depth, all in one split and of one placeholder.

    Folders common to all images are left out of their paths, so that a directory and a zip of it are the same.

    Raises:
        UserError: no image.
    """
    tree = tree_of(source, ())
    files = tree.under("")
    if not files:
        raise UserError(
            f"{tree.label} has no image ({', '.join(EXTENSIONS)}) at any depth (found: {tree.shown}); set "
            "data.unlabelled.root to a folder or zip of images.",
            code="no-images",
        )
    first, last = (path.split("/")[:-1] for path in (files[0], files[-1]))  # sorted: the others lie between
    common = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    prefix = "".join(f"{part}/" for part, _ in common)
    below = {
        path.removeprefix(prefix): stamp for path, stamp in tree.stamps.items() if path.startswith(prefix)
    }
    inside = replace(tree, prefix=tree.prefix + prefix, stamps=below)
    return listing_from(inside, {"train": {UNLABELLED: inside.under("")}}, hint="add images")


UNLABELLED = "unlabelled"  # the layout of images without labels, which is none of a data set

LAYOUTS: dict[str, Layout] = {
    "folder": scan_folder,
    "step-folders": scan_step_folders,
    "imagenet": scan_imagenet,
    **PUBLISHED,
}


def scan(name: str, source: Source) -> Listing:
    """List a file-based data set from its open source; ``name`` is a key of :data:`LAYOUTS`, or `UNLABELLED`."""
    if name == UNLABELLED:
        return scan_unlabelled(source)
    if name not in LAYOUTS:
        raise UserError(unknown("file-based data set", name, LAYOUTS), code="unknown-file-based-data-set")
    return LAYOUTS[name](source)


def listing_of(name: str, root: Path, *, follow_links: bool = False) -> Listing:
    """List the files, classes and splits of a file-based data set; decodes no image.

    Args:
        name: a key of :data:`LAYOUTS`.
        root: its directory or zip.
        follow_links: as of :func:`gkd.data.image_files.open_source`.

    Raises:
        UserError: nothing at ``root``, or files that are not in the layout of ``name``.
    """
    with closing(open_set(name, root, follow_links=follow_links)) as source:
        return scan(name, source)
