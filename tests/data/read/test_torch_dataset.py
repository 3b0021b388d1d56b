"""Any torch data set: labels wherever they are, images in every usual form, and refusals that name the item."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.transforms import functional as transforms

from gkd.data import from_dataset, load_images
from tests.refusals import refused

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
LABELS = [2, 0, 1, 1, 0, 2]


class Own(Dataset):
    """A data set of (form(pixels), label), with other attributes as given."""

    def __init__(self, form: Callable[[np.ndarray], Any], labels: Any = LABELS, /, **attributes: Any) -> None:
        self.form = form
        self.items = list(labels)
        for name, value in (attributes or {"targets": labels}).items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.form(PIXELS[i]), self.items[i]


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "PIL": Image.fromarray,
    "array": lambda pixels: pixels,
    "array [C, H, W]": lambda pixels: pixels.transpose(2, 0, 1),
    "tensor": lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1),
    "tensor [H, W, C]": torch.from_numpy,
    "ToTensor": lambda pixels: transforms.to_tensor(Image.fromarray(pixels)),
    "half": lambda pixels: transforms.to_tensor(Image.fromarray(pixels)).half(),
    "float64 array": lambda pixels: pixels / 255,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_gives_the_same_pixels(form: str) -> None:
    images = from_dataset(Own(FORMS[form]), name="own")
    assert images.images.equal(torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    assert images.labels.tolist() == LABELS
    assert images.space.names == ("0", "1", "2")
    assert images.name == "own"


@pytest.mark.parametrize(
    "form",
    [
        lambda pixels: pixels[..., 0],
        lambda pixels: pixels[..., :1],
        lambda pixels: torch.from_numpy(pixels[..., 0])[None],
        lambda pixels: Image.fromarray(pixels[..., 0]),
        lambda pixels: transforms.to_tensor(Image.fromarray(pixels[..., 0])),
    ],
)
def test_grey_images(form: Callable[[np.ndarray], Any]) -> None:
    images = from_dataset(Own(form))
    assert images.images.equal(torch.from_numpy(PIXELS[..., 0])[:, None])
    assert from_dataset(Own(form), channels=3).channels == 3


@pytest.mark.parametrize("form", ["array", "tensor"])
def test_where_the_channels_are_of_an_image_of_three_by_three(form: str) -> None:
    images = from_dataset(Own(lambda pixels: FORMS[form](pixels[:3, :3])))
    assert images.images.equal(torch.from_numpy(PIXELS[:, :3, :3]).permute(0, 3, 1, 2))


@pytest.mark.parametrize("attribute", ["targets", "labels", "get_labels"])
@pytest.mark.parametrize("labels", [LABELS, torch.tensor(LABELS), np.array(LABELS), tuple(LABELS)])
def test_labels_wherever_they_are(attribute: str, labels: Any) -> None:
    given = (lambda: labels) if attribute == "get_labels" else labels
    dataset = Own(FORMS["PIL"], labels, **{attribute: given})
    assert from_dataset(dataset).labels.tolist() == LABELS


def test_labels_of_tensors_and_of_a_part() -> None:
    tensors = TensorDataset(torch.from_numpy(PIXELS).permute(0, 3, 1, 2), torch.tensor(LABELS))
    assert from_dataset(tensors).labels.tolist() == LABELS
    named = Own(FORMS["PIL"], LABELS, targets=LABELS, classes=["x", "y", "z"])
    for whole in (tensors, named):
        part = from_dataset(Subset(whole, [4, 2, 3]))
        assert [part.space.names[column] for column in part.labels.tolist()] == (
            ["x", "y", "y"] if whole is named else ["0", "1", "1"]
        )
        assert torch.equal(part.images, from_dataset(whole).images[[4, 2, 3]])


def test_class_names() -> None:
    names = ["c", "a", "b"]
    form = FORMS["PIL"]
    by_column = from_dataset(Own(form, targets=LABELS, classes=names))
    assert (by_column.space.names, by_column.labels.tolist()) == (("c", "a", "b"), LABELS)
    given = from_dataset(Own(form), classes=names)
    assert (given.space.names, given.labels.tolist()) == (("c", "a", "b"), LABELS)
    words = [names[label] for label in LABELS]
    by_name = from_dataset(Own(form, words, targets=words, classes=names))
    assert (by_name.space.names, by_name.labels.tolist()) == (("c", "a", "b"), LABELS)
    found = from_dataset(Own(form, words))
    assert (found.space.names, found.labels.tolist()) == (("a", "b", "c"), [1, 2, 0, 0, 2, 1])
    sparse = from_dataset(Own(form, [20, 3, 20, 3, 100, 3]))
    assert (sparse.space.names, sparse.labels.tolist()) == (("3", "20", "100"), [1, 0, 1, 0, 2, 0])
    mixed = Own(form, words, targets=LABELS, classes=names)  # items by name, the list by column
    assert from_dataset(mixed).labels.tolist() == LABELS


def test_a_torchvision_folder_is_the_class_folder(two_classes: dict[str, bytes], write_tree: Any) -> None:
    root = write_tree(two_classes)
    for settings in ({}, {"channels": 1}, {"image_size": 5}):
        images = from_dataset(torchvision.datasets.ImageFolder(str(root / "train")), **settings)
        assert images.fingerprint() == load_images("folder", "train", root=root, **settings).fingerprint()


def test_images_of_several_sizes() -> None:
    dataset = Own(lambda pixels: pixels[: 4 + pixels[0, 0, 0] % 2])
    with refused("mixed-image-sizes"):
        from_dataset(dataset, name="own")
    assert from_dataset(dataset, image_size=4).size == (4, 4)


class Stream(IterableDataset):
    targets = (0, 1)

    def __iter__(self) -> Any:
        return iter([(PIXELS[0], 0), (PIXELS[1], 1)])


def no_datasets() -> dict[str, tuple[Any, str]]:
    form, abc = FORMS["PIL"], list("abcabc")
    flip = iter([True, False] * 3)
    return {
        "no length": (Stream(), "length-missing"),
        "no labels": (Own(form, other=1), "labels-missing"),
        "empty": (Own(form, []), "no-images"),
        "too few": (Own(form, targets=LABELS[:-1]), "other-label-count"),
        "one-hot": (Own(form, targets=torch.eye(6)), "label-types"),
        "float": (Own(form, targets=[0.5] * 6), "label-types"),
        "contradiction": (Own(form, targets=[2, 1, 0, 1, 0, 2]), "other-labels"),
        "no such column": (Own(form, targets=LABELS, classes="ab"), "unknown-label"),
        "no such name": (Own(form, abc, targets=abc, classes="ab"), "unknown-label"),
        "normalised": (Own(lambda p: p / 64 - 2), "pixels-out-of-range"),
        "scaled": (Own(lambda p: p.astype(np.float32)), "pixels-out-of-range"),
        "NaN": (Own(lambda p: np.full((4, 4), np.nan)), "pixels-out-of-range"),
        "int64": (Own(lambda p: p.astype(np.int64)), "pixel-type"),
        "16 bits": (Own(lambda p: Image.fromarray(p[..., 0].astype(np.uint16))), "unsupported-image-mode"),
        "shape": (Own(lambda p: p[..., :2]), "image-shape"),
        "a path": (Own(lambda p: "0.png"), "not-an-image"),
        "mixed": (Own(lambda p: p[..., 0] if next(flip) else p), "mixed-channels"),
    }  # fmt: skip


@pytest.mark.parametrize("case", no_datasets())
def test_what_cannot_be_read_is_refused(case: str) -> None:
    dataset, code = no_datasets()[case]
    with refused(code) as error:
        from_dataset(dataset, name="own")
    assert "\n" not in str(error.value)


def test_items_of_another_form() -> None:
    class Bare(Own):
        def __getitem__(self, i: int) -> Any:
            return PIXELS[i] if i else 1 / 0

    with refused("item-unreadable"):
        from_dataset(Bare(FORMS["PIL"]), name="own")
    PairLess = type("PairLess", (Own,), {"__getitem__": lambda self, i: PIXELS[i]})
    with refused("not-a-pair"):
        from_dataset(PairLess(FORMS["PIL"]), name="own")


def test_data_sets_in_one_another_keep_their_labels_and_classes() -> None:
    own = Own(FORMS["PIL"], targets=LABELS, classes=["ant", "bee", "cat"])
    subset, joined = Subset(own, [3, 0]), ConcatDataset([own, Subset(own, [1])])
    for dataset, numbers in (
        (Subset(Subset(own, [5, 3, 0]), torch.tensor([2, 1])), [0, 3]),
        (joined, [*range(6), 1]),
        (ConcatDataset([subset, joined]), [3, 0, *range(6), 1]),
        (Subset(joined, [6, 2]), [1, 2]),
        (ConcatDataset([TensorDataset(torch.zeros(2, 1, 8, 10), torch.tensor([1, 0]))]), None),
    ):
        images = from_dataset(dataset)
        if numbers is None:
            assert images.labels.tolist() == [1, 0]
            continue
        assert images.labels.tolist() == [LABELS[number] for number in numbers]
        assert images.space.names == ("ant", "bee", "cat")
        assert images.images.equal(torch.from_numpy(PIXELS[numbers]).permute(0, 3, 1, 2))


def test_joined_data_sets_of_other_classes_or_without_labels_are_refused() -> None:
    one, other = (
        Own(FORMS["PIL"], targets=LABELS, classes=names) for names in (["a", "b", "c"], ["b", "a", "c"])
    )
    with refused("other-classes"):
        from_dataset(ConcatDataset([one, other]), name="joined")
    assert from_dataset(ConcatDataset([one, other]), classes=["a", "b", "c"]).labels.tolist() == LABELS * 2
    with refused("labels-missing"):
        from_dataset(ConcatDataset([one, Own(FORMS["PIL"], other=1)]), name="joined")
