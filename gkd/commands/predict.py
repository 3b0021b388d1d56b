"""Classify images by a student: among its classes, or new ones of which a folder has a few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.commands.choices import RECOGNISERS
from gkd.commands.evaluate import final_answers, final_problem
from gkd.commands.export import load_student
from gkd.commands.query_images import parts, pixels_of, query_images
from gkd.config.layers import BEFORE
from gkd.config.load import load
from gkd.config.resolve import override_layers
from gkd.config.schema import Run
from gkd.core.class_means import class_means, cosines_to_means
from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelSpace
from gkd.core.text import decoded
from gkd.data import ImageSet
from gkd.data.decoding import Form, decode
from gkd.data.image_files import is_image, open_source, tree_of
from gkd.data.read.listing import FOLDERS
from gkd.experiment.networks import load_network
from gkd.experiment.run_folder import finished, said_below
from gkd.few_shot.classifiers import cosine_mean, nearest_mean
from gkd.storage.preprocessing import COSINE_SCALE, HEAD
from gkd.storage.run_files import WEIGHTS
from gkd.storage.weight_metadata import CompleteMetadata, WeightMetadata
from gkd.training.device import choose_device, choose_dtype, use_threads
from gkd.training.predictions import predict
from gkd.training.settings import Settings


@dataclass(frozen=True)
class Guess:
    """A class that an image may be of.

    Attributes:
        name: the class.
        confidence: in [0, 1]: the softmax over the classifier's scores, at ``name``.
    """

    name: str
    confidence: float


@dataclass(frozen=True)
class Answer:
    """The classes that an image is taken for.

    Attributes:
        image: its path.
        guesses: one or more, the likeliest first.
    """

    image: Path
    guesses: tuple[Guess, ...]

    @property
    def name(self) -> str:
        """The likeliest class."""
        return self.guesses[0].name

    @property
    def confidence(self) -> float:
        """That of the likeliest class."""
        return self.guesses[0].confidence


def recognise(
    run: Path,
    support: Path,
    images: Sequence[Path],
    *,
    classifier: str = "cosine",
    weights: Literal["last", "best"] = "last",
    overrides: Sequence[str] = (),
    top: int = 1,
) -> list[Answer]:
    """Classify images among the classes of a support folder, by a run's student.

    Args:
        run: the folder of a finished run of any task, or a weight file that gkd wrote.
        support: a directory or zip of ``CLASS/FILE``, with two classes or more, not necessarily as many files in each.
        images: files, and folders or zips, of which every image file is taken.
        classifier: ``cosine`` to the class means (its confidence is a softmax of ten times the cosines),
            ``nearest-mean`` (a softmax of squared distances, close to 0 or 1) or ``logistic`` (regression of unit
            embeddings, C = 1, which few images leave undecided).
        weights: the student of the last epoch, or of that which validation chose.
        overrides: ``a.b=c`` over the run's config, such as a network of your own that you trust.
        top: how many classes an answer holds, the likeliest ones.

    Raises:
        UserError: no finished run, fewer than two classes, an empty class, a file that is no image.
    """
    if classifier not in RECOGNISERS:
        raise UserError(unknown("classifier", classifier, RECOGNISERS), code="unknown-classifier")
    student = _student_of(run, weights, overrides)
    asked = query_images(images, follow_links=student.follow_links)
    examples = _support_images(support, student.form, follow_links=student.follow_links)
    _, support_rows = student.outputs(examples)

    def chances(queries: ImageSet) -> Tensor:
        _, query_rows = student.outputs(queries)
        return _probabilities(support_rows, examples.labels, query_rows, classifier)

    return [
        answer
        for names, queries in parts(asked, student.form, follow_links=student.follow_links)
        for answer in _answered(names, chances(queries), examples.space.names, top)
    ]


def recognise_known(
    run: Path,
    images: Sequence[Path],
    *,
    weights: Literal["last", "best"] = "last",
    overrides: Sequence[str] = (),
    top: int = 1,
) -> list[Answer]:
    """Classify images among the classes that a run's student was trained on, as the run itself was judged.

    The classifier is the head (its confidence is the softmax), or the nearest class mean, of exemplars in an
    incremental run (its confidence is a softmax of ten times the cosines). The means are those that the weight file
    holds; where it holds none they are made of the run's images, and a weight file alone answers by its head
    (`judged_otherwise`).

    Args:
        run, images, weights, overrides, top: as for ``recognise``.

    Raises:
        UserError: no finished run, a file that is no image, or images of the run that have changed.
    """
    student = _student_of(run, weights, overrides)
    asked = query_images(images, follow_links=student.follow_links)
    chances = _by_head(student)
    if student.judged_by != HEAD and student.class_means is not None:
        chances = _by_means_of_file(student, student.class_means)
    elif student.judged_by != HEAD and run.is_dir():
        chances = _by_means(run, student, overrides)
    return [
        answer
        for names, queries in parts(asked, student.form, follow_links=student.follow_links)
        for answer in _answered(names, chances(queries), student.metadata.classes, top)
    ]


def judged_otherwise(path: Path) -> str | None:
    """A sentence where a weight file's run was judged by another classifier than the file's head; else None."""
    metadata = WeightMetadata.read(path) if path.is_file() else WeightMetadata()
    preprocessing = metadata.preprocessing
    if preprocessing is None or preprocessing.answers == HEAD or metadata.class_means is not None:
        return None
    return (
        f"The run of {path} was judged by the {preprocessing.answers}, of which the file holds none: it answers by its "
        "head, which answers otherwise; give the run's folder to have it answer as it was judged."
    )


def _by_head(student: _Student) -> Callable[[ImageSet], Tensor]:
    return lambda queries: student.outputs(queries)[0].softmax(1)


def _by_means_of_file(student: _Student, means: Tensor) -> Callable[[ImageSet], Tensor]:
    """Chances by the class means that a weight file holds."""
    return lambda queries: (COSINE_SCALE * cosines_to_means(student.outputs(queries)[1], means)).softmax(1)


def _by_means(run: Path, student: _Student, overrides: Sequence[str]) -> Callable[[ImageSet], Tensor]:
    """Chances by the class means of a run's own images."""
    prepared, method = final_problem(run, overrides)
    network = student.network.to(prepared.settings.device)

    def chances(queries: ImageSet) -> Tensor:
        problem = replace(prepared.problem, student=replace(prepared.problem.student, test=queries))
        return (COSINE_SCALE * final_answers(network, problem, method, prepared.settings)).softmax(1)

    return chances


@dataclass(frozen=True)
class _Student:
    """A student, from its run's folder or its weight file alone.

    Attributes:
        load: makes its network.
        run: the run section, for the device.
        metadata: the file's.
        form: how images are decoded for it.
        judged_by: the classifier by which its run was judged.
        class_means: those of that classifier, where its file holds them.
        follow_links: whether folders of images may hold links to somewhere outside them.
    """

    load: Callable[[], nn.Module]
    run: Run
    metadata: CompleteMetadata
    form: Form
    judged_by: str
    class_means: Tensor | None
    follow_links: bool = False

    @cached_property
    def settings(self) -> Settings:
        return _settings(self.run, self.metadata.mean, self.metadata.std)

    @cached_property
    def network(self) -> nn.Module:
        return self.load().to(self.settings.device)

    def outputs(self, images: ImageSet) -> tuple[Tensor, Tensor]:
        """Logits and embedding of images."""
        return predict(self.network, images, self.settings)


def _student_of(run: Path, weights: Literal["last", "best"], overrides: Sequence[str]) -> _Student:
    """The student of a finished run's folder, or of a weight file; a UserError where it is neither."""
    return _student_of_file(run, overrides) if run.is_file() else _student_of_run(run, weights, overrides)


def _student_of_run(run: Path, weights: Literal["last", "best"], overrides: Sequence[str]) -> _Student:
    summary = finished(run)
    if summary is None:
        raise UserError(
            f"{run} is no folder of a finished run; gkd predict takes one that holds summary.json, or a weight file."
            f"{said_below(run)}",
            code="not-a-finished-run",
        )
    path = run / WEIGHTS[weights]
    resolved = load(run / "config.yaml", overrides, from_run=True)
    experiment = resolved.experiment
    stated = WeightMetadata.read(path)
    metadata = stated.complete(path)
    channels, height, width = metadata.image_shape
    # A run of before turned no photograph, and mostly had none to turn; new ones are upright unless the user says no.
    exif = "apply" if resolved.origins.get("data.exif") == BEFORE else experiment.data.exif
    form = Form(channels, height, experiment.data.fit, exif, width)
    # Of the shape to build for.
    pixels = torch.zeros(1, *metadata.image_shape, dtype=torch.uint8)
    blank = ImageSet(pixels, torch.zeros(1, dtype=torch.int64), LabelSpace(["query"]))
    return _Student(
        lambda: load_network(experiment.student, path, blank).network,
        experiment.run,
        metadata,
        form,
        summary.judged_by,
        stated.class_means,
        experiment.data.follow_links,
    )


def _student_of_file(path: Path, overrides: Sequence[str]) -> _Student:
    links = [word for word in overrides if word.startswith("data.follow_links=")]
    follow_links = any(layer.content["data"]["follow_links"] is True for layer in override_layers(links)[-1:])
    others = [word for word in overrides if word not in links]
    found = load_student(path, overrides=others, verb="gkd predict")
    if found.preprocessing.fit is None:
        raise UserError(
            f"{path} does not say how photographs of other sizes become its input; add data.fit=stretch, or crop.",
            code="fit-missing",
        )
    channels, height, width = found.metadata.image_shape
    form = Form(channels, height, found.preprocessing.fit, found.preprocessing.exif or "apply", width)
    answers, means = found.preprocessing.answers, found.class_means
    return _Student(lambda: found.network, Run(), found.metadata, form, answers, means, follow_links)


def _answered(images: Sequence[Path], chances: Tensor, classes: Sequence[str], top: int) -> list[Answer]:
    """The likeliest classes of each image, from ``[N, C]``.

    Raises:
        UserError: chances that are no numbers.
    """
    if not torch.isfinite(chances).all():
        row = int((~torch.isfinite(chances)).any(1).nonzero()[0, 0])
        raise UserError(
            f"The student's answer to {images[row]} is no number; its weights or its statistics hold infinite values. "
            "Train it again, or give other weights.",
            code="answer-not-finite",
        )
    confidences, columns = chances.sort(dim=1, descending=True, stable=True)
    return [
        Answer(
            image,
            tuple(Guess(classes[column], value) for column, value in zip(of_image, values, strict=True)),
        )
        for image, of_image, values in zip(
            images, columns[:, :top].tolist(), confidences[:, :top].tolist(), strict=True
        )
    ]


def _settings(run: Run, mean: tuple[float, ...], std: tuple[float, ...]) -> Settings:
    use_threads(run.threads)
    device = choose_device(run.device)
    return Settings(
        seed=0, batch_size=1, augment="none", mean=mean, std=std, device=device,
        dtype=choose_dtype("float32", device),
    )  # fmt: skip


def _support_images(root: Path, form: Form, *, follow_links: bool) -> ImageSet:
    """The images of ``CLASS/FILE``; classes in the order of their names."""
    if not root.exists():
        raise UserError(
            f"--support {root} does not exist; name a folder or zip of CLASS/FILE, a few images of each new class.",
            code="support-missing",
        )
    with closing(open_source(root, follow_links=follow_links)) as source:
        tree = tree_of(source, ())
        files: dict[str, list[str]] = {}
        for path in tree.stamps:
            name, _, rest = path.partition("/")
            if "/" in path:
                files.setdefault(name, [])
            if rest and is_image(rest):
                files[name].append(path)
        splits = {name for names in FOLDERS.values() for name in names}
        if files and set(files) <= splits:
            raise UserError(
                f"The support {root} holds the splits {', '.join(sorted(files))} of a data set, and not classes; name "
                f"one of them: --support {root / min(files)}.",
                code="support-of-splits",
            )
        empty = [name for name, paths in files.items() if not paths]
        if len(files) < 2 or empty:
            content = f"an empty class {empty[0]!r}" if empty else f"{len(files)} class folders"
            raise UserError(
                f"The support {root} holds {content}, but a choice needs two classes or more, each a folder with at "
                "least one image: arrange it as CLASS/FILE.",
                code="class-without-images" if empty else "too-few-classes",
            )
        rows = [(column, path) for column, name in enumerate(sorted(files)) for path in sorted(files[name])]
        pixels = [pixels_of(decode(source, path, form)) for _, path in rows]
    labels = torch.tensor([column for column, _ in rows])
    return ImageSet(
        torch.stack(pixels), labels, LabelSpace([decoded(name) for name in sorted(files)]), name=str(root)
    )


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
    scores = COSINE_SCALE * cosine_mean(*episode) if cosine else nearest_mean(*episode)
    return scores[0, 0].softmax(1)
