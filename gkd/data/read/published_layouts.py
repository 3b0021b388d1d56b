"""The layouts in which well-known data sets are published, read as they are unpacked.

Text files that list classes and splits are checked against the images both ways: a line without a file and
an image without a line are refused, because either means that a list or a download is incomplete.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator

from gkd.core.errors import UserError
from gkd.data.image_files import Source, Tree, tree_of
from gkd.data.read.listing import Listing, listing_from

_WHOLE = "fetch the data set again, or take the class out of its lists"


class _Assignment:
    """The split and class of every image, each image once."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.splits: dict[str, dict[str, list[str]]] = {}
        self._seen: dict[str, str] = {}

    def classes(self, split: str, names: list[str]) -> None:
        """Declare a split's classes, in the order of their columns."""
        self.splits[split] = {name: [] for name in names}

    def add(self, path: str, split: str, name: str, list_file: str) -> None:
        """Put an image in a class; ``list_file`` is the text file that lists it."""
        label = self.tree.label
        if path not in self.tree.stamps:
            raise UserError(
                f"'{list_file}' in {label} names the image '{path}', which is not there; fetch the images again, "
                "or take the line out.",
                code="image-missing",
            )
        if path in self._seen:
            raise UserError(
                f"The image '{path}' in {label} is listed twice, as {self._seen[path]} and as '{name}' of "
                f"{split} ('{list_file}'); keep one line.",
                code="image-twice",
            )
        if name not in self.splits[split]:
            raise UserError(
                f"'{list_file}' in {label} gives the image '{path}' the class '{name}', which is none of the "
                f"{len(self.splits[split])} classes; correct the line or fetch the lists again.",
                code="unknown-class",
            )
        self._seen[path] = f"'{name}' of {split}"
        self.splits[split][name].append(path)

    def listing(self, folder: str, lists: str) -> Listing:
        """Make the listing; refuses an image below ``folder`` that was not added. ``lists`` names the text files."""
        for path in self.tree.under(folder):
            if path not in self._seen:
                raise UserError(
                    f"The image '{path}' in {self.tree.label} stands in none of its lists ({lists}), so its class "
                    "is not known; fetch the lists again, or remove it.",
                    code="image-not-listed",
                )
        return listing_from(self.tree, self.splits, hint=_WHOLE)


def _numbered(tree: Tree, path: str, what: str) -> dict[str, str]:
    """Read a file of lines ``NUMBER VALUE`` as number -> value."""
    values: dict[str, str] = {}
    for line in tree.text(path, what):
        number, _, value = line.strip().partition(" ")
        if not number.isdecimal() or not value.strip():
            raise UserError(
                f"'{path}' in {tree.label} has the line {line!r}; each is 'NUMBER VALUE'.",
                code="list-line-form",
            )
        if number in values:
            raise UserError(
                f"'{path}' in {tree.label} has two lines for {number}; keep one.", code="number-twice"
            )
        values[number] = value.strip()
    return values


def scan_cub200(source: Source) -> Listing:
    """CUB-200-2011: 200 bird species, 5,994 training and 5,794 test images of several sizes.

    As published: ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt`` (1 is training),
    ``classes.txt`` and ``images/CLASS/FILE``. Class names are those of ``classes.txt``, such as
    ``001.Black_footed_Albatross``, in its order.
    """
    tree = tree_of(source, ("images.txt", "classes.txt"))
    classes = _numbered(tree, "classes.txt", "CUB-200-2011's class names")
    files = _numbered(tree, "images.txt", "CUB-200-2011's image paths")
    labels = _numbered(tree, "image_class_labels.txt", "the class of each image")
    sides = _numbered(tree, "train_test_split.txt", "the split of each image")
    assigned = _Assignment(tree)
    for split in ("train", "test"):
        assigned.classes(split, list(classes.values()))
    for number, file in files.items():
        for path, values in (("image_class_labels.txt", labels), ("train_test_split.txt", sides)):
            if number not in values:
                raise UserError(
                    f"'{path}' in {tree.label} has no line for image {number} ('{file}'); fetch it again.",
                    code="line-missing",
                )
        if labels[number] not in classes:
            raise UserError(
                f"'image_class_labels.txt' in {tree.label} gives image {number} ('{file}') the class "
                f"{labels[number]}, which is not in 'classes.txt'; fetch the lists again.",
                code="unknown-class",
            )
        if sides[number] not in ("0", "1"):
            raise UserError(
                f"'train_test_split.txt' in {tree.label} says {sides[number]!r} of image {number} ('{file}'); "
                "1 is training, 0 is test.",
                code="unknown-split",
            )
        name = classes[labels[number]]
        if not file.startswith(f"{name}/"):
            raise UserError(
                f"'image_class_labels.txt' in {tree.label} gives image {number} the class '{name}', but it lies in "
                f"'{file}'; fetch the lists again.",
                code="class-and-folder-differ",
            )
        split = "train" if sides[number] == "1" else "test"
        assigned.add(f"images/{file}", split, name, "images.txt")
    return assigned.listing("images/", "images.txt")


def _cinic10(source: Source, splits: dict[str, str]) -> Listing:
    tree = tree_of(source, ("train", "valid", "test"))
    for folder in ("train", "valid", "test"):
        if not tree.under(f"{folder}/"):
            raise UserError(
                f"{tree.label} has no images in a folder '{folder}' (found: {tree.shown}); CINIC-10 is "
                "train/CLASS/FILE, valid/CLASS/FILE and test/CLASS/FILE.",
                code="split-folders-missing",
            )
    names = {path.split("/")[1] for path in tree.stamps if path.count("/") >= 2}
    files: dict[str, dict[str, list[str]]] = {}
    for folder, split in splits.items():
        classes = files.setdefault(split, {name: [] for name in sorted(names)})
        for path in tree.under(f"{folder}/"):
            if path.count("/") >= 2:
                classes[path.split("/")[1]].append(path)
    return listing_from(tree, files, hint=_WHOLE)


def scan_cinic10(source: Source) -> Listing:
    """CINIC-10: 10 classes of 32-pixel images, 90,000 each in train, valid and test.

    As published: ``train``, ``valid`` and ``test`` of CLASS/FILE. ``valid`` is kept out of training, as the
    validation split; ``cinic10_train_valid`` trains on both.
    """
    return _cinic10(source, {"train": "train", "valid": "validation", "test": "test"})


def scan_cinic10_train_valid(source: Source) -> Listing:
    """CINIC-10 with the images of ``valid`` among the training images: 180,000 and 90,000 test images."""
    return _cinic10(source, {"train": "train", "valid": "train", "test": "test"})


def _dtd(fold: int) -> Callable[[Source], Listing]:
    """Make the layout of one of DTD's ten folds."""

    def scan(source: Source) -> Listing:
        tree = tree_of(source, ("labels", "images"))
        lists = {
            split: f"labels/{part}{fold}.txt"
            for split, part in (("train", "train"), ("validation", "val"), ("test", "test"))
        }
        lines = {
            split: [line.strip() for line in tree.text(path, f"DTD's {split} list of fold {fold}")]
            for split, path in lists.items()
        }
        names = sorted({line.partition("/")[0] for listed in lines.values() for line in listed})
        assigned = _Assignment(tree)
        for split, path in lists.items():
            assigned.classes(split, names)
            for line in lines[split]:
                assigned.add(f"images/{line}", split, line.partition("/")[0], path)
        return assigned.listing("images/", ", ".join(lists.values()))

    scan.__doc__ = f"""DTD, the Describable Textures Dataset, fold {fold} of 10: 47 classes, 1,880 images a split.

    As published: ``images/CLASS/FILE`` and ``labels/train{fold}.txt``, ``val{fold}.txt`` and
    ``test{fold}.txt`` of CLASS/FILE. The validation list is kept out of training. Images have several sizes.
    """
    return scan


def scan_tiny_imagenet(source: Source) -> Listing:
    """Tiny-ImageNet-200: 200 classes of 64-pixel images, 500 to train on and 50 to test on each.

    As published: ``train/WNID/images/*.JPEG``, ``val/images/*.JPEG`` with ``val/val_annotations.txt``, and
    ``wnids.txt``. The labelled ``val`` images are the test split; those of ``test`` have no labels and are
    skipped. Class names are WordNet ids in sorted order (as class folders are), with or without
    ``words.txt``. Some of the images are grey: set ``data.channels: 3``.
    """
    tree = tree_of(source, ("wnids.txt", "train"))
    names = sorted(line.strip() for line in tree.text("wnids.txt", "Tiny-ImageNet's class ids"))
    assigned = _Assignment(tree)
    assigned.classes("train", names)
    for path in tree.under("train/"):
        if path.count("/") >= 2:
            name = path.split("/")[1]
            if name not in assigned.splits["train"]:
                raise UserError(
                    f"The image '{path}' in {tree.label} is of '{name}', which is not in 'wnids.txt'; correct "
                    "that file or remove the folder.",
                    code="unknown-class",
                )
            assigned.add(path, "train", name, "wnids.txt")
    annotations = "val/val_annotations.txt"
    assigned.classes("test", names)
    for line in tree.text(annotations, "the classes of Tiny-ImageNet's labelled 'val' images"):
        file, *rest = line.split()
        if not rest:
            raise UserError(
                f"'{annotations}' in {tree.label} has the line {line!r}; each is 'FILE WNID ...'.",
                code="list-line-form",
            )
        assigned.add(f"val/images/{file}", "test", rest[0], annotations)
    return assigned.listing("val/", annotations)


def _rows(tree: Tree, path: str) -> Iterator[tuple[str, str]]:
    """Yield the (filename, label) of a CSV with these columns."""
    reader = csv.DictReader(tree.text(path, "one of mini-ImageNet's lists of filename,label"))
    columns = [(name or "").strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    for needed in ("filename", "label"):
        if needed not in columns:
            raise UserError(
                f"'{path}' in {tree.label} has no column '{needed}' in its first line (found: "
                f"{', '.join(columns) or 'nothing'}); mini-ImageNet's lists have filename,label.",
                code="column-missing",
            )
    for row in reader:
        file, label = ((row[column] or "").strip() for column in ("filename", "label"))
        if not file or not label:
            raise UserError(
                f"'{path}' in {tree.label} has a row without a filename or a label (row {reader.line_num}); "
                "complete it or take it out.",
                code="value-missing",
            )
        yield file, label


def scan_mini_imagenet(source: Source) -> Listing:
    """mini-ImageNet (Ravi & Larochelle): 64, 16 and 20 classes to train, validate and test on, 600 images each.

    As published: ``images/FILE`` and ``train.csv``, ``val.csv``, ``test.csv`` of filename,label. No two
    splits share a class: each split has its own classes (sorted WordNet ids), test images are of classes that
    training never saw. That is few-shot data; a run that trains and tests a classifier over the same classes
    refuses it.
    """
    tree = tree_of(source, ("train.csv", "images"))
    assigned = _Assignment(tree)
    owner: dict[str, str] = {}
    for split, path in (("train", "train.csv"), ("validation", "val.csv"), ("test", "test.csv")):
        rows = list(_rows(tree, path))
        assigned.classes(split, sorted({label for _, label in rows}))
        for file, label in rows:
            if owner.setdefault(label, path) != path:
                raise UserError(
                    f"The class '{label}' stands in '{owner[label]}' and in '{path}' of {tree.label}; "
                    "mini-ImageNet's splits share no class, so fetch the lists again.",
                    code="class-in-two-splits",
                )
            assigned.add(f"images/{file}", split, label, path)
    return assigned.listing("images/", "train.csv, val.csv, test.csv")


PUBLISHED: dict[str, Callable[[Source], Listing]] = {
    "cub200": scan_cub200,
    "cinic10": scan_cinic10,
    "cinic10_train_valid": scan_cinic10_train_valid,
    "dtd": _dtd(1),
    **{f"dtd_{fold}": _dtd(fold) for fold in range(2, 11)},
    "tiny_imagenet": scan_tiny_imagenet,
    "mini_imagenet": scan_mini_imagenet,
}
