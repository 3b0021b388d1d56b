"""The class of a photograph by an ONNX file of `gkd export`, without gkd and torch: what the file says of itself is
enough.

pip install onnxruntime pillow; python onnx_from_jpeg.py STUDENT.onnx PHOTO.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def probabilities(model: str, photo: str) -> dict[str, float]:
    """Class -> probability, by a softmax over what the file gives for each."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    steps = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    image = Image.open(photo)
    image = ImageOps.exif_transpose(image) if steps["exif"] == "apply" else image
    image = image.convert(steps["channel_order"])
    _, height, width = steps["input_size"]
    size = width, height
    if steps["crop"]:  # the shorter side to a size, then the middle
        size = tuple(int(steps["resize"]["size"] * side / min(image.size)) for side in image.size)
    image = image.resize(size, Image.Resampling.BILINEAR)  # PIL's is antialiased
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 255
    images = pixels.reshape(1, height, width, -1).transpose(0, 3, 1, 2)  # the file normalises by itself
    scores = steps["probabilities"]["scale"] * session.run(None, {steps["input_name"]: images})[0][0]
    chances = np.exp(scores - scores.max())
    return dict(zip(steps["classes"], chances / chances.sum(), strict=True))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    chances = probabilities(*sys.argv[1:])
    name = max(chances, key=chances.__getitem__)
    print(f"{sys.argv[2]}: {name} ({chances[name]:.1%})")
