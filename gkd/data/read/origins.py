"""Where well-known data sets of image files are published, and as what, for whoever does not have them yet."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gkd.core.errors import UserError
from gkd.data.image_files import Source, open_source


class Origin(NamedTuple):
    """What a data set is unpacked to, and the address at which it is published."""

    layout: str
    address: str


_DTD = Origin(
    "images/CLASS/FILE and labels/, as dtd-r1.0.1.tar.gz unpacks", "https://www.robots.ox.ac.uk/~vgg/data/dtd"
)
_CINIC10 = Origin(
    "train/CLASS/FILE, valid/CLASS/FILE and test/CLASS/FILE, as CINIC-10.tar.gz unpacks",
    "https://doi.org/10.7488/ds/2448",
)
ORIGINS: dict[str, Origin] = {
    "imagenet": Origin(
        "train/WNID/FILE of ILSVRC2012_img_train.tar and val/WNID/FILE of ILSVRC2012_img_val.tar, whose images are to "
        "be moved into the folders of their classes",
        "https://image-net.org/download.php",
    ),
    "cub200": Origin(
        "classes.txt, images.txt, image_class_labels.txt, train_test_split.txt and images/CLASS/FILE, as "
        "CUB_200_2011.tgz unpacks",
        "https://www.vision.caltech.edu/datasets/cub_200_2011",
    ),
    "cinic10": _CINIC10,
    "cinic10_train_valid": _CINIC10,
    "dtd": _DTD,
    **{f"dtd_{fold}": _DTD for fold in range(2, 11)},
    "tiny_imagenet": Origin(
        "wnids.txt, train/WNID/images/FILE, val/images/FILE and val/val_annotations.txt, as tiny-imagenet-200.zip has "
        "them",
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    ),
    "mini_imagenet": Origin(
        "images/FILE of ImageNet and the lists train.csv, val.csv and test.csv",
        "https://github.com/twitter-research/meta-learning-lstm (the lists)",
    ),
}


def open_set(name: str, root: Path, *, follow_links: bool = False) -> Source:
    """Open the directory or zip of a data set; the caller closes it.

    Args:
        name: of the data set; where nothing is at ``root``, one of :data:`ORIGINS` is told with its layout and address.
        root: the directory or zip.
        follow_links: as of :func:`gkd.data.image_files.open_source`.

    Raises:
        UserError: nothing at ``root``, or a file that is no whole zip.
    """
    if name not in ORIGINS or root.exists():
        return open_source(root, follow_links=follow_links)
    where = "" if root.is_absolute() else f" in {Path.cwd()}"
    raise UserError(
        f"There is no file or folder {root}{where}; set data.root to the folder or zip of {name}, which is "
        f"{ORIGINS[name].layout}; it is published at {ORIGINS[name].address}.",
        code="data-set-missing",
    )
