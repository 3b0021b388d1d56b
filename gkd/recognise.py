"""Single images of new classes: a finished run's student, a folder of support images by class, and a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.builders import build_side, choose_device, choose_dtype, use_threads
from gkd.checkpoint import load_weights, read_weights
from gkd.config import load
from gkd.data import ImageSet
from gkd.data.files import Form, decode, is_image, open_source, tree_of
from gkd.errors import UserError, unknown
from gkd.evaluate import predict
from gkd.labels import LabelSpace
from gkd.results import WEIGHTS
from gkd.runs import finished
from gkd.schema import Experiment
from gkd.settings import Settings
from gkd.weight_facts import WeightFacts

RECOGNISERS = ("cosine", "nearest-mean", "logistic")
_SCALE = 10.0  # of cosines, where Meta-Baseline (Chen et al., ICCV 2021) starts to learn it


@dataclass(frozen=True)
class Answer:
    """What an image is taken for.

    Attributes:
        image: its path.
        name: the class.
        confidence: in [0, 1]: the softmax over the classifier's scores, at ``name``.
    """

    image: Path
    name: str
    confidence: float


def recognise(
    run: Path,
    support: Path,
    images: Sequence[Path],
    *,
    classifier: str = "cosine",
    weights: Literal["last", "best"] = "last",
    overrides: Sequence[str] = (),
) -> list[Answer]:
    """The class of each image, among those of the support folder, by a run's student.

    Args:
        run: the folder of a finished run of any task.
        support: a directory or zip of ``CLASS/FILE``, with two classes or more, not necessarily as many files in each.
        images: files.
        classifier: ``cosine`` to the class means (its confidence is a softmax of ten times the cosines),
            ``nearest-mean`` (a softmax of squared distances, close to 0 or 1) or ``logistic`` (regression of unit
            embeddings, C = 1, which few images leave undecided).
        weights: the student of the last epoch, or of that which validation chose.

        overrides: ``a.b=c`` over the run's config, such as a network of your own that you trust.

    Raises:
        UserError: no finished run, fewer than two classes, an empty class, a file that is no image.
    """
    if classifier not in RECOGNISERS:
        raise UserError(unknown("classifier", classifier, RECOGNISERS))
    if finished(run) is None:
        raise UserError(
            f"{run} is no folder of a finished run; gkd predict takes one that holds summary.json."
        )
    experiment = load(run / "config.yaml", overrides, from_run=True).experiment
    tensors, metadata = read_weights(run / WEIGHTS[weights])
    facts = WeightFacts.read(metadata, run / WEIGHTS[weights])
    # A run writes them all.
    assert facts.image_shape is not None
    assert facts.classes is not None
    assert facts.mean is not None
    assert facts.std is not None
    channels, height, _ = facts.image_shape
    form = Form(channels, height, experiment.data.fit)
    known = _support_images(support, form)
    asked = _asked_images(images, form)
    network = build_side(experiment.student, len(facts.classes), known, facts.options)
    load_weights(network, tensors, name=experiment.student.network, path=run / WEIGHTS[weights])
    settings = _settings(experiment, facts.mean, facts.std)
    network.to(settings.device)
    _, own = predict(network, known, settings)
    _, theirs = predict(network, asked, settings)
    chances = _probabilities(own, known.labels, theirs, classifier)
    found = chances.max(1)
    names = [known.space.names[column] for column in found.indices.tolist()]
    return [
        Answer(path, name, confidence)
        for path, name, confidence in zip(images, names, found.values.tolist(), strict=True)
    ]


def _settings(experiment: Experiment, mean: tuple[float, ...], std: tuple[float, ...]) -> Settings:
    use_threads(experiment.run.threads)
    device = choose_device(experiment.run.device)
    return Settings(
        seed=0, batch_size=1, augment="none", mean=mean, std=std, device=device,
        dtype=choose_dtype("float32", device),
    )  # fmt: skip


def _support_images(root: Path, form: Form) -> ImageSet:
    """The images of ``CLASS/FILE``; classes in the order of their names."""
    with closing(open_source(root)) as source:
        tree = tree_of(source, ())
        files: dict[str, list[str]] = {}
        for path in tree.stamps:
            name, _, rest = path.partition("/")
            if "/" in path:
                files.setdefault(name, [])
            if rest and is_image(rest):
                files[name].append(path)
        empty = [name for name, paths in files.items() if not paths]
        if len(files) < 2 or empty:
            found = f"an empty class {empty[0]!r}" if empty else f"{len(files)} class folders"
            raise UserError(
                f"The support {root} holds {found}, but a choice needs two classes or more, each a folder with at "
                "least one image: arrange it as CLASS/FILE."
            )
        rows = [(column, path) for column, name in enumerate(sorted(files)) for path in sorted(files[name])]
        pixels = [_pixels(decode(source, path, form)) for _, path in rows]
    labels = torch.tensor([column for column, _ in rows])
    return ImageSet(torch.stack(pixels), labels, LabelSpace(sorted(files)), name=str(root))


def _asked_images(paths: Sequence[Path], form: Form) -> ImageSet:
    pixels = []
    for path in paths:
        if not path.is_file():
            raise UserError(f"The image {path} does not exist; name image files after the support folder.")
        with closing(open_source(path.parent)) as source:
            pixels.append(_pixels(decode(source, path.name, form)))
    labels = torch.zeros(len(pixels), dtype=torch.int64)  # not read
    return ImageSet(torch.stack(pixels), labels, LabelSpace(["asked"]))


def _pixels(image: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(image.copy())  # a decoder's own memory may be read-only
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def _probabilities(support: Tensor, labels: Tensor, query: Tensor, classifier: str) -> Tensor:
    """``[Q, N]`` from embeddings; the classes may have different numbers of support rows."""
    if classifier == "logistic":
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(C=1.0, max_iter=1000).fit(
            F.normalize(support, dim=1).numpy(), labels.numpy()
        )
        return torch.from_numpy(fitted.predict_proba(F.normalize(query, dim=1).numpy()))
    unit = classifier == "cosine"
    support, query = (F.normalize(rows, dim=1) if unit else rows for rows in (support, query))
    means = torch.stack([support[labels == column].mean(0) for column in range(int(labels.max()) + 1)])
    scores = _SCALE * query @ F.normalize(means, dim=1).T if unit else -torch.cdist(query, means).square()
    return scores.softmax(1)
