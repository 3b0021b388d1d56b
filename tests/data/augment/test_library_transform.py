"""Transforms of torchvision's by name: each sample's result is torchvision's own under a seed of its address."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from gkd.core.labels import LabelSpace
from gkd.data import Batches, ImageSet, Look, augmentation
from gkd.data.augment.library_transform import (
    REFUSED,
    LibraryTransform,
    _generator_kept,
    library_transforms,
    sample_seeds,
)
from tests.refusals import refused

ADDRESS = {"seed": 5, "stage": 0, "epoch": 1}
SIZE = 24
# Options of those that need some, and of those that would change the size without.
OPTIONS = {
    "ColorJitter": "brightness=0.4, hue=0.1",
    "CenterCrop": f"size={SIZE}",
    "Pad": "padding=0",
    "GaussianBlur": "kernel_size=3",
    "Grayscale": "num_output_channels=3",
    "JPEG": "quality=[5, 50]",
    "RandomAdjustSharpness": "sharpness_factor=2",
    "RandomAffine": "degrees=[-10, 10], translate=[0.1, 0.1], interpolation=bilinear",
    "RandomCrop": f"size={SIZE}, padding=4",
    "RandomGrayscale": "p=0.5",
    "RandomPosterize": "bits=3",
    "RandomResizedCrop": f"size={SIZE}, antialias=true",
    "RandomRotation": "degrees=20",
    "RandomSolarize": "threshold=128",
    "RandomErasing": "p=0.7, value=7",
    "Resize": f"size=[{SIZE}, {SIZE}]",
    "AutoAugment": "policy=cifar10",
}
# Those that torchvision has and that fail, or that give something else than the pixels of one image.
NO_IMAGE = {
    "ClampBoundingBoxes", "ClampKeyPoints", "ConvertBoundingBoxFormat", "ConvertImageDtype", "LinearTransformation",
    "Normalize", "PILToTensor", "RandomResize", "RandomShortestSize", "RandomZoomOut", "ScaleJitter", "SetClampingMode",
    "ToDtype", "ToPILImage", "ToPureTensor", "ToTensor",
}  # fmt: skip


def images(count: int = 12) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def chain_of(name: str) -> str:
    return f"v2:{name}({OPTIONS[name]})" if name in OPTIONS else f"v2:{name}"


@pytest.mark.parametrize("name", [name for name in library_transforms() if name not in NO_IMAGE])
def test_a_samples_result_is_torchvisions_under_its_seed(name: str) -> None:
    chain, pixels, index = augmentation(chain_of(name)), images(), torch.arange(12) + 3
    chain.check((3, SIZE, SIZE))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    result = chain(pixels, index, **ADDRESS)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(1)
    parts = [chain(*part, **ADDRESS) for part in zip(pixels.split(5), index.split(5), strict=True)]
    assert torch.cat(parts).equal(result)
    transform = chain.steps[0]._transform  # type: ignore[union-attr]
    for image, seed, own in zip(pixels, sample_seeds(index, **ADDRESS), result, strict=True):
        torch.manual_seed(seed)
        assert own.equal(transform(image))
    if result.equal(pixels):
        assert name in ("Identity", "RGB", "ToImage", "CenterCrop", "Pad", "Resize")


# One of each kind: by chance without parameters, with words, with numbers of its own, and none that is random.
@pytest.mark.parametrize(
    "name",
    ["RandomHorizontalFlip", "RandomPosterize", "RandomErasing", "ColorJitter", "RandomRotation", "RandomPerspective",
     "RandomChannelPermutation", "Grayscale"],
)  # fmt: skip
def test_samples_in_groups_are_as_alone(name: str) -> None:
    """What another device than a CPU does."""
    step = augmentation(chain_of(name)).steps[0]
    assert isinstance(step, LibraryTransform)
    pixels, index = images(40), torch.arange(40)
    alone = step(pixels, index, **ADDRESS)
    with _generator_kept():
        together = step._in_groups(pixels, sample_seeds(index, **ADDRESS))
    difference = (alone.int() - together.int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).double().mean()) < 0.001


def test_samples_with_the_same_parameters_go_through_together(monkeypatch: pytest.MonkeyPatch) -> None:
    step = LibraryTransform("v2:RandomHorizontalFlip", {})
    calls = []

    def counted(pixels: Tensor, parameters: dict[str, object]) -> Tensor:
        calls.append(len(pixels))
        return pixels.flip(-1)

    monkeypatch.setattr(step._transform, "transform", counted)
    step._in_groups(images(40), list(range(40)))
    assert len(calls) == 1
    assert 10 < calls[0] < 30


def test_the_images_that_are_given_stay_as_they_are() -> None:
    pixels = images()
    result = augmentation("v2:RandomErasing(p=1, inplace=true)")(pixels, torch.arange(12), **ADDRESS)
    assert pixels.equal(images())
    assert not result.equal(pixels)


def test_every_sample_epoch_and_place_in_a_chain_has_its_own_seed() -> None:
    index = torch.arange(1000)
    addresses = [
        {**ADDRESS}, {**ADDRESS, "seed": 6}, {**ADDRESS, "epoch": 2}, {**ADDRESS, "view": 1}, {**ADDRESS, "number": 1}
    ]  # fmt: skip
    seeds = [seed for address in addresses for seed in sample_seeds(index, **address)]
    assert len(set(seeds)) == 5000
    assert min(seeds) >= 0
    assert max(seeds) < 2**62


def test_two_transforms_of_a_chain_are_drawn_apart() -> None:
    twice = augmentation("v2:RandomHorizontalFlip+crop+v2:RandomHorizontalFlip")
    assert [step.number for step in twice.steps if isinstance(step, LibraryTransform)] == [0, 1]
    once = augmentation("crop")
    pixels, index = images(200), torch.arange(200)
    unflipped = (twice(pixels, index, **ADDRESS) == once(pixels, index, **ADDRESS)).flatten(1).all(1)
    # Drawn alike, every image would be flipped twice or not at all, and only the crop's place could differ.
    assert 30 < int(unflipped.sum()) < 70


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_augmentation_of_one_image_is_refused(name: str) -> None:
    if hasattr(v2, name):  # later versions of torchvision have more
        with refused("library-transform-refused"):
            augmentation(f"v2:{name}")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("v2:ColourJitter", "unknown-augmentation"),
        ("v2:Transform", "unknown-augmentation"),
        ("v2:functional", "unknown-augmentation"),
        ("v2:ColorJitter(brightnes=1)", "library-transform-options"),
        ("v2:ColorJitter(hue=3)", "library-transform-options"),
        ("v2:GaussianBlur", "library-transform-options"),
        ("v2:AutoAugment(policy=cifar)", "library-transform-options"),
        ("v2:ConvertBoundingBoxFormat(format=XYXY)", "library-transform-refused"),
        ("v2:ToPureTensor", "library-transform-refused"),
    ],
)
def test_other_transforms_are_refused(text: str, code: str) -> None:
    with refused(code):
        augmentation(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("v2:Resize(size=12)", "library-transform-shape"),
        ("v2:RandomCrop(size=12)", "library-transform-shape"),
        ("v2:Grayscale", "library-transform-shape"),
        ("v2:ConvertImageDtype", "library-transform-shape"),
        ("v2:ToPILImage", "library-transform-shape"),
        ("v2:RandomCrop(size=40)", "library-transform-fails"),
        ("v2:Normalize(mean=[0.5], std=[0.5])", "library-transform-fails"),
        ("crop+v2:RandomZoomOut", "library-transform-shape"),
    ],
)
def test_what_does_not_keep_the_pixels_is_refused_before_training(text: str, code: str) -> None:
    chain = augmentation(text)
    with refused(code):
        chain.check((3, SIZE, SIZE))


def test_a_batch_source_tries_the_transform_on_its_images() -> None:
    data = ImageSet(images(8), torch.arange(8) % 2, LabelSpace(["a", "b"]), name="own")
    with refused("library-transform-shape"):
        Batches(data, Look((0.5,) * 3, (0.2,) * 3, "v2:Resize(size=12)"), batch_size=4, seed=0)


def test_without_torchvision_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    with refused("torchvision-missing"):
        augmentation("v2:ColorJitter")
