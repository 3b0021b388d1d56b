"""The class splits of few-shot learning, by name: lists of class names that ship with the package.

Each list is a text file in ``gkd/data/classes`` that says its source; names are in alphabetical order, which
for CIFAR-100 is that of its label ids.
"""

from __future__ import annotations

from importlib import resources

from gkd.errors import UserError, unknown

CLASS_SPLITS = ("cifar_fs", "fc100", "mini_imagenet", "cub_chen", "cub_meta_dataset")


def class_split(name: str) -> dict[str, list[str]]:
    """The classes to train, validate and test on.

    Args:
        name: ``cifar_fs`` (64, 16 and 20 classes of CIFAR-100), ``fc100`` (60, 20 and 20 of them, by
            superclass), ``mini_imagenet`` (64, 16 and 20 WordNet ids), and of CUB-200-2011's species ``cub_chen`` (100,
            50 and 50) or ``cub_meta_dataset`` (140, 30 and 30).

    Returns:
        ``{"train": [...], "validation": [...], "test": [...]}``, no class in two of them.

    Raises:
        UserError: another name.
    """
    if name not in CLASS_SPLITS:
        raise UserError(unknown("class split", name, CLASS_SPLITS))
    text = (resources.files("gkd") / "data" / "classes" / f"{name}.txt").read_text(encoding="utf-8")
    split: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.endswith(":"):
            split[line[:-1]] = []
        elif line and not line.startswith("#"):
            split[list(split)[-1]].append(line)
    return split
