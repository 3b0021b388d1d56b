"""Classify single images by a finished run's student: among its classes, or new ones of which a folder has a few."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.commands.choices import RECOGNISERS
from gkd.commands.evaluate import final_answers, final_problem
from gkd.config.load import load
from gkd.config.schema import Experiment, Student
from gkd.core.class_means import class_means
from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelSpace
from gkd.core.text import decoded
from gkd.data import ImageSet
from gkd.data.image_files import Form, decode, is_image, open_source, tree_of
from gkd.experiment.networks import load_network
from gkd.experiment.run_folder import finished
from gkd.few_shot.classifiers import cosine_mean, nearest_mean
from gkd.storage.run_files import WEIGHTS
from gkd.storage.run_results import RunSummary
from gkd.storage.weight_metadata import CompleteMetadata, WeightMetadata
from gkd.training.device import choose_device, choose_dtype, use_threads
from gkd.training.predictions import predict
from gkd.training.settings import Settings

_SCALE = 10.0  # of cosines, where Meta-Baseline (Chen et al., ICCV 2021) starts to learn it


@dataclass(frozen=True)
class Answer:
    """The class that an image is taken for.

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
    """Classify images among the classes of a support folder, by a run's student.

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
        raise UserError(unknown("classifier", classifier, RECOGNISERS), code="unknown-classifier")
    _summary_of(run)
    student = _student_of(run, weights, overrides)
    examples = _support_images(support, student.form)
    (_, support_rows), (_, query_rows) = student.outputs(examples, _query_images(images, student.form))
    chances = _probabilities(support_rows, examples.labels, query_rows, classifier)
    return _answered(images, chances, examples.space.names)


def recognise_known(
    run: Path,
    images: Sequence[Path],
    *,
    weights: Literal["last", "best"] = "last",
    overrides: Sequence[str] = (),
) -> list[Answer]:
    """Classify images among the classes that a run's student was trained on, as the run itself was judged.

    The classifier is the head (its confidence is the softmax), or the nearest class mean, of exemplars in an
    incremental run, which needs the run's images (its confidence is a softmax of ten times the cosines).

    Args:
        run, images, weights, overrides: as for ``recognise``.

    Raises:
        UserError: no finished run, a file that is no image, or images of the run that have changed.
    """
    summary = _summary_of(run)
    student = _student_of(run, weights, overrides)
    queries, classes = _query_images(images, student.form), student.metadata.classes
    if summary.judged_by == "head":
        ((logits, _),) = student.outputs(queries)
        return _answered(images, logits.softmax(1), classes)
    prepared, method = final_problem(run, overrides)
    problem = replace(prepared.problem, student=replace(prepared.problem.student, test=queries))
    network = load_network(student.section, student.path, queries).network.to(prepared.settings.device)
    scores = final_answers(network, problem, method, prepared.settings)
    return _answered(images, (_SCALE * scores).softmax(1), classes)


def _summary_of(run: Path) -> RunSummary:
    """The summary of a finished run; a UserError where it is none."""
    summary = finished(run)
    if summary is None:
        raise UserError(
            f"{run} is no folder of a finished run; gkd predict takes one that holds summary.json.",
            code="not-a-finished-run",
        )
    return summary


@dataclass(frozen=True)
class _Student:
    """A finished run's student, from its folder alone.

    Attributes:
        path: the weight file.
        experiment: the run's.
        metadata: the file's.
        form: how images are decoded for it.
    """

    path: Path
    experiment: Experiment
    metadata: CompleteMetadata
    form: Form

    @property
    def section(self) -> Student:
        """The section that builds the network."""
        return self.experiment.student

    def outputs(self, *image_sets: ImageSet) -> list[tuple[Tensor, Tensor]]:
        """Logits and embedding of each set of images."""
        settings = _settings(self.experiment, self.metadata.mean, self.metadata.std)
        network = load_network(self.section, self.path, image_sets[0]).network.to(settings.device)
        return [predict(network, images, settings) for images in image_sets]


def _student_of(run: Path, weights: Literal["last", "best"], overrides: Sequence[str]) -> _Student:
    path = run / WEIGHTS[weights]
    experiment = load(run / "config.yaml", overrides, from_run=True).experiment
    metadata = WeightMetadata.read(path).complete(path)
    channels, height, _ = metadata.image_shape
    return _Student(path, experiment, metadata, Form(channels, height, experiment.data.fit))


def _answered(images: Sequence[Path], chances: Tensor, classes: Sequence[str]) -> list[Answer]:
    """The likeliest class of each image."""
    confidences, columns = chances.max(1)
    names = [classes[column] for column in columns.tolist()]
    return [
        Answer(path, name, confidence)
        for path, name, confidence in zip(images, names, confidences.tolist(), strict=True)
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
            content = f"an empty class {empty[0]!r}" if empty else f"{len(files)} class folders"
            raise UserError(
                f"The support {root} holds {content}, but a choice needs two classes or more, each a folder with at "
                "least one image: arrange it as CLASS/FILE.",
                code="class-without-images" if empty else "too-few-classes",
            )
        rows = [(column, path) for column, name in enumerate(sorted(files)) for path in sorted(files[name])]
        pixels = [_pixels(decode(source, path, form)) for _, path in rows]
    labels = torch.tensor([column for column, _ in rows])
    return ImageSet(
        torch.stack(pixels), labels, LabelSpace([decoded(name) for name in sorted(files)]), name=str(root)
    )


def _query_images(paths: Sequence[Path], form: Form) -> ImageSet:
    """Image files as one set; its labels are placeholders."""
    pixels = []
    for path in paths:
        if not path.is_file():
            raise UserError(f"The image {path} does not exist; name image files.", code="image-missing")
        with closing(open_source(path.parent)) as source:
            pixels.append(_pixels(decode(source, path.name, form)))
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    return ImageSet(torch.stack(pixels), labels, LabelSpace(["query"]))


def _pixels(image: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(image.copy())  # a decoder's own memory may be read-only
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def _probabilities(support: Tensor, labels: Tensor, queries: Tensor, classifier: str) -> Tensor:
    """``[Q, N]`` from embeddings ``[S, D]`` and ``[Q, D]``; the classes may have different numbers of support rows."""
    if classifier == "logistic":
        # few_shot.classifiers fits it to equally many rows of each class; here they differ, and means would not do.
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(C=1.0, max_iter=1000).fit(
            F.normalize(support, dim=1).numpy(), labels.numpy()
        )
        return torch.from_numpy(fitted.predict_proba(F.normalize(queries, dim=1).numpy()))
    cosine = classifier == "cosine"
    means, _ = class_means(F.normalize(support, dim=1) if cosine else support, labels, int(labels.max()) + 1)
    # One episode with one row of each class: its mean, which is all that these two classifiers read of a class.
    episode = means[None, :, None], queries[None, None]
    scores = _SCALE * cosine_mean(*episode) if cosine else nearest_mean(*episode)
    return scores[0, 0].softmax(1)
