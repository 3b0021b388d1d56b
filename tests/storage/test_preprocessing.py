"""The steps from a photograph to the answer, as readers without gkd find them in a file."""

import json

import pytest

from gkd.storage.preprocessing import EXEMPLAR_MEANS, Preprocessing

COLOUR = {
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "image_shape": (3, 224, 224),
    "classes": ("cat", "dog"),
}


def test_a_crop_is_described_step_by_step() -> None:
    assert Preprocessing("crop", "apply").describe(**COLOUR, inside=True) == {
        "exif": "apply",
        "channel_order": "RGB",
        "alpha": "dropped",
        "resize": {"rule": "shorter side", "size": 256},
        "interpolation": "bilinear",
        "antialias": True,
        "crop": {"rule": "center", "size": [224, 224]},
        "pixel_range": [0, 1],
        "normalisation": {
            "where": "inside the file",
            "formula": "(pixel - mean) / std",
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.3, 0.4],
        },
        "input_name": "images",
        "input_size": [3, 224, 224],
        "layout": "NCHW",
        "dtype": "float32",
        "output": "logits of the head, one column a class",
        "probabilities": {"formula": "softmax(scale * output)", "scale": 1},
        "classes": ["cat", "dog"],
        "answers": "head",
    }


def test_grey_stretched_weights_that_exemplars_answer_for() -> None:
    grey = {**COLOUR, "mean": (0.5,), "std": (0.2,), "image_shape": (1, 28, 30)}
    steps = Preprocessing("stretch", "ignore", EXEMPLAR_MEANS).describe(**grey, inside=False)
    assert steps["normalisation"]["where"] == "outside the file, before the network"
    assert {key: steps[key] for key in ("exif", "channel_order", "resize", "crop", "answers")} == {
        "exif": "ignore",
        "channel_order": "L",
        "resize": {"rule": "stretch", "size": [28, 30]},
        "crop": None,
        "answers": "nearest class mean of the exemplars",
    }


@pytest.mark.parametrize("fit", [None, "stretch", "crop"])
@pytest.mark.parametrize("exif", [None, "ignore", "apply"])
def test_what_was_written_is_read(fit, exif) -> None:
    preprocessing = Preprocessing(fit, exif, EXEMPLAR_MEANS)
    text = json.dumps(preprocessing.describe(**COLOUR, inside=False))
    assert Preprocessing.parse(text) == preprocessing


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"resize": {"rule": "zoom"}}',
        '{"resize": {"rule": []}}',
        '{"exif": "turn"}',
        '{"answers": 3}',
    ],
)
def test_other_steps_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (the reader's: a header says of which entry)
        Preprocessing.parse(text)


def test_files_from_before_it_was_written() -> None:
    assert Preprocessing.of_former({"fit": "crop"}, EXEMPLAR_MEANS) == Preprocessing(
        "crop", "apply", EXEMPLAR_MEANS
    )
    assert Preprocessing.of_former({}, "head") == Preprocessing("stretch", "apply", "head")
    for unknown in (None, "photos"):
        assert Preprocessing.of_former(unknown, "head") == Preprocessing(None, None, "head")


def test_a_data_section_reads_photographs_so() -> None:
    assert Preprocessing("crop", "ignore").data_keys() == {"fit": "crop", "exif": "ignore"}
    assert Preprocessing(None, None, EXEMPLAR_MEANS).data_keys() == {}
