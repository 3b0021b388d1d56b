"""Single images by a finished run's student: among its own classes, or among new ones of which a folder holds a few."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.commands.evaluate import final_answers, final_problem
from gkd.config.load import load
from gkd.config.schema import Experiment
from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelSpace
from gkd.data import ImageSet
from gkd.data.image_files import Form, decode, is_image, open_source, tree_of
from gkd.experiment.networks import build_side
from gkd.experiment.run_folder import finished
from gkd.storage.run_files import WEIGHTS
from gkd.storage.run_results import RunSummary
from gkd.storage.weight_metadata import WeightFacts
from gkd.storage.weights import load_weights, read_weights
from gkd.training.device import choose_device, choose_dtype, use_threads
from gkd.training.predictions import predict
from gkd.training.settings import Settings

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
    _summary_of(run)
    student = _Student(run, weights, overrides)
    known = _support_images(support, student.form)
    asked = _asked_images(images, student.form)
    own, theirs = student.outputs(known)[1], student.outputs(asked)[1]
    return _answered(images, _probabilities(own, known.labels, theirs, classifier), known.space.names)


def recognise_known(
    run: Path,
    images: Sequence[Path],
    *,
    weights: Literal["last", "best"] = "last",
    overrides: Sequence[str] = (),
) -> list[Answer]:
    """The class of each image, among those that a run's student was trained on, by what answers for its method.

    That is the head, whose confidence is its softmax; or the nearest class mean, of exemplars in an incremental run,
    which needs the run's images (its confidence is a softmax of ten times the cosines).

    Args:
        run, images, weights, overrides: as for ``recognise``.

    Raises:
        UserError: no finished run, a file that is no image, or images of the run that have changed.
    """
    summary = _summary_of(run)
    student = _Student(run, weights, overrides)
    asked = _asked_images(images, student.form)
    if summary.judged_by == "head":
        return _answered(images, student.outputs(asked)[0].softmax(1), student.classes)
    prepared, method = final_problem(run, summary, overrides)
    problem = replace(prepared.problem, student=replace(prepared.problem.student, test=asked))
    settings = prepared.settings
    scores = final_answers(run, student.built(asked).to(settings.device), problem, method, settings)
    return _answered(images, (_SCALE * scores).softmax(1), student.classes)


def _summary_of(run: Path) -> RunSummary:
    """What a finished run says of itself; a UserError where it is none."""
    summary = finished(run)
    if summary is None:
        raise UserError(
            f"{run} is no folder of a finished run; gkd predict takes one that holds summary.json."
        )
    return summary


class _Student:
    """A finished run's student, from its folder alone."""

    def __init__(self, run: Path, weights: Literal["last", "best"], overrides: Sequence[str]) -> None:
        self.path = run / WEIGHTS[weights]
        self.experiment = load(run / "config.yaml", overrides, from_run=True).experiment
        self.network = self.experiment.student.network
        self.tensors, metadata = read_weights(self.path)
        self.facts = WeightFacts.read(metadata, self.path)
        # A run writes them all.
        assert self.facts.image_shape is not None
        assert self.facts.classes is not None
        channels, height, _ = self.facts.image_shape
        self.form, self.classes = Form(channels, height, self.experiment.data.fit), self.facts.classes

    def outputs(self, images: ImageSet) -> tuple[Tensor, Tensor]:
        """Logits and embedding of images."""
        assert self.facts.mean is not None
        assert self.facts.std is not None
        settings = _settings(self.experiment, self.facts.mean, self.facts.std)
        return predict(self.built(images).to(settings.device), images, settings)

    def built(self, images: ImageSet) -> nn.Module:
        """The network for images like these, with the run's weights."""
        network: nn.Module = build_side(
            self.experiment.student, len(self.classes), images, self.facts.options
        )
        load_weights(network, self.tensors, name=self.network, path=self.path)
        return network


def _answered(images: Sequence[Path], chances: Tensor, classes: Sequence[str]) -> list[Answer]:
    """The likeliest class of each image."""
    found = chances.max(1)
    names = [classes[column] for column in found.indices.tolist()]
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
            raise UserError(f"The image {path} does not exist; name image files.")
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
