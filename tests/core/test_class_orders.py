"""Orders and selections of classes; the class splits that ship: their sizes, and what they are splits of."""

from __future__ import annotations

import numpy as np
import pytest

from gkd.core.class_orders import CLASS_SPLITS, class_order, class_split, fraction, window
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import class_split as exported
from tests.refusals import refused

TEN = LabelSpace([f"c{number}" for number in range(10)])
# CIFAR-100's classes by superclass (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html).
SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
# In the order of their label ids, as torchvision has them.
CIFAR_100 = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television",
    "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cifar_fs", (64, 16, 20)),
        ("fc100", (60, 20, 20)),
        ("mini_imagenet", (64, 16, 20)),
        ("cub_chen", (100, 50, 50)),
        ("cub_meta_dataset", (140, 30, 30)),
    ],
)
def test_sizes_and_disjointness(name: str, sizes: tuple[int, ...]) -> None:
    split = class_split(name)
    assert list(split) == ["train", "validation", "test"]
    assert tuple(len(part) for part in split.values()) == sizes
    assert len({entry for part in split.values() for entry in part}) == sum(sizes)
    assert all(part == sorted(part) for part in split.values())
    assert exported(name) == split


@pytest.mark.parametrize("name", ["cifar_fs", "fc100"])
def test_together_they_are_cifar_100(name: str) -> None:
    assert len(CIFAR_100) == 100
    assert sorted(entry for part in class_split(name).values() for entry in part) == sorted(CIFAR_100)


def test_fc100_keeps_superclasses_whole() -> None:
    assert sorted(" ".join(SUPERCLASSES.values()).split()) == CIFAR_100
    split = {part: set(names) for part, names in class_split("fc100").items()}
    superclasses = {
        part: {name for name, members in SUPERCLASSES.items() if set(members.split()) <= names}
        for part, names in split.items()
    }
    assert [len(found) for found in superclasses.values()] == [12, 4, 4]
    assert superclasses["validation"] == {
        "large_carnivores", "large_omnivores_and_herbivores", "non-insect_invertebrates", "small_mammals",
    }  # fmt: skip
    assert superclasses["test"] == {"aquatic_mammals", "insects", "medium_mammals", "people"}


def test_mini_imagenet_has_wordnet_ids() -> None:
    split = class_split("mini_imagenet")
    assert all(
        name[0] == "n" and name[1:].isdecimal() and len(name) == 9 for part in split.values() for name in part
    )
    assert [part[0] for part in split.values()] == ["n01532829", "n01855672", "n01930112"]


def test_the_order_of_the_gkd_windows() -> None:
    """64 training, 16 validation, 20 test classes of CIFAR-FS; windows of 50 as in the GKD experiments."""
    space = LabelSpace(CIFAR_100)
    order = class_order(space, "cifar_fs").names
    assert order[:2] == ("apple", "aquarium_fish")
    assert order[64] == "beaver"
    assert order[80] == "baby"
    assert sorted(order) == CIFAR_100
    teacher, student = (window(space, size=50, shift=shift, order="cifar_fs") for shift in (0, 30))
    assert set(teacher).isdisjoint(window(space, size=50, shift=50, order="cifar_fs"))
    assert len(set(teacher) & set(student)) == 20


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (CIFAR_100[1:], "other-classes"),
        ([*CIFAR_100, "zebra"], "other-classes"),
    ],
)
def test_a_named_order_is_for_its_own_classes(names: list[str], code: str) -> None:
    with refused(code):
        class_order(LabelSpace([*names]), "cifar_fs")


def test_unknown_names_list_the_known_ones() -> None:
    with refused("unknown-class-split") as error:
        class_split("cifar-fs")
    assert all(name in str(error.value) for name in CLASS_SPLITS)
    with refused("unknown-class-order"):
        class_order(LabelSpace(["a"]), "random")


def test_both_traditions_of_cub_are_of_its_200_species() -> None:
    """Chen et al. take every second species, by their numbers, and of the others every second one."""
    numbers = {
        part: [int(name.partition(".")[0]) for name in names]
        for part, names in class_split("cub_chen").items()
    }
    assert numbers["train"] == list(range(1, 201, 2))
    assert numbers["validation"] == list(range(2, 201, 4))
    assert numbers["test"] == list(range(4, 201, 4))
    species = [
        sorted(name for part in class_split(split).values() for name in part)
        for split in ("cub_chen", "cub_meta_dataset")
    ]
    assert species[0] == species[1]
    assert class_split("cub_chen")["test"] != class_split("cub_meta_dataset")["test"]


@pytest.mark.parametrize(
    ("shift", "kind", "shared"), [(0, "same", 4), (1, "overlapping", 3), (4, "disjoint", 0)]
)
def test_windows_overlap_in_size_minus_shift_classes(shift: int, kind: str, shared: int) -> None:
    teacher = window(TEN, size=4, order="1993")
    student = window(TEN, size=4, shift=shift, order="1993")
    relation = LabelRelation(teacher, student)
    assert (relation.kind, relation.num_shared, len(student)) == (kind, shared, 4)


def test_a_numbered_order_is_numpys_legacy_permutation() -> None:
    expected = np.random.RandomState(1993).permutation(10)
    assert list(class_order(TEN, "1993")) == [f"c{column}" for column in expected]
    assert class_order(TEN, "natural") == TEN


def test_a_fraction_is_drawn_by_seed_and_keeps_the_order() -> None:
    first = fraction(TEN, share=0.5, seed=1)
    assert len(first) == 5
    assert first == fraction(TEN, share=0.5, seed=1)
    assert first != fraction(TEN, share=0.5, seed=2)
    assert list(first) == sorted(first)
    assert fraction(TEN, share=1.0, seed=3) == TEN


def test_selections_beyond_the_classes_are_refused() -> None:
    with refused("window-out-of-range"):
        window(TEN, size=5, shift=7)
    with refused("fraction-out-of-range"):
        fraction(TEN, share=0.01)
