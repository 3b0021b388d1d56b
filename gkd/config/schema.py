"""The schema of an experiment file: what each section may hold. Unknown keys are forbidden."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from gkd.core.errors import UserError, unknown
from gkd.data import LAYOUTS, augmentation, check_dataset_name
from gkd.methods.method import Method
from gkd.methods.mixup import without_mixup
from gkd.methods.optimiser import Optimiser
from gkd.metrics import check_metric_name
from gkd.models import check_network_name, check_network_options
from gkd.models.external import is_external
from gkd.problems.task import TaskOptions


class Section(BaseModel):
    """One section of an experiment file: unknown keys are forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _from_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"the home folder in {str(path)!r} is not known; write the whole path") from None


HomePath = Annotated[Path, AfterValidator(_from_home)]


class Validation(Section):
    """The images that choose the best epoch; cut by seed before teacher and student are built."""

    per_class: int | None = Field(default=None, ge=1)
    fraction: float | None = Field(default=None, gt=0, lt=1)
    take: Literal["random", "last"] = "random"
    seed: int = 0

    @model_validator(mode="after")
    def _one_size(self) -> Validation:
        if (self.per_class is None) == (self.fraction is None):
            raise ValueError("give per_class or fraction, one of them")
        return self


class TeacherView(Section):
    """What the teacher sees of each of the student's samples, where that is not what the student sees.

    Attributes:
        image_size, channels: of the teacher's images; None is as the student's.
        augment: of the teacher's images, such as ``none`` for clean ones; None is as the student's.
        draws: whether its crops and flips are the ``same`` as the student's (of a larger image the same part, to a
            pixel), or its ``own``.
    """

    image_size: int | None = Field(default=None, ge=1)
    channels: Literal[1, 3] | None = None
    augment: str | None = None
    draws: Literal["same", "own"] = "same"

    @field_validator("augment")
    @classmethod
    def _known_augmentation(cls, augment: str | None) -> str | None:
        return augment if augment is None else _known_augmentation(augment)


def _known_augmentation(augment: str) -> str:
    try:
        augmentation(augment)
    except UserError as error:
        raise ValueError(str(error)) from None
    return augment


class Data(Section):
    """An image set, its validation split, its limits and how batches are made of it.

    Attributes:
        name, root, download, channels, image_size: what to read (``gkd.data.load_images``). ``name`` may be
            your own ``pkg.module:factory``; its root is then part of the run's name, for its content is not known.
        fit: how image files of other proportions become a square of ``image_size``: ``stretch``, or ``crop``: the
            shorter side to 8/7 of it, then the middle.
        fingerprint: of the images at ``root`` (``gkd.data.fingerprint``), verified when they are read. Without
            it the images found there name the run.
        rotations: every class four times, turned by 0, 90, 180 and 270 degrees, as classes of their own (Omniglot).
        per_class: the student's training images a class; None takes all.
        subset_seed: draws those images; None draws them by ``run.seed``, anew for each seed.
        validation: the images that choose; drawn from those that no limit has taken.
        views: augmented views an image; the teacher's outputs on them are computed once and shared by
            epochs, stages, methods and (under one ``subset_seed``) seeds. None augments anew every epoch.
        images_per_class: K, for class-balanced batches of P = batch_size / K classes in stages on all images; None
            shuffles.
        augment: names joined by ``+``, each perhaps with options (``gkd.data.augmentation``); a last ``mixup``
            makes every term of every stage one on mixtures of images.
        teacher_view: what the teacher sees where that is something else.
        memory_gb: images that take more are streamed from disk.
        workers: processes that decode streamed images; None takes one a CPU.
        mean, std: the input normalisation; None measures it over the training images.
    """

    name: str
    root: HomePath | None = None
    fingerprint: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    download: bool = False
    rotations: bool = False
    channels: Literal[1, 3] | None = None
    image_size: int | None = Field(default=None, ge=1)
    fit: Literal["stretch", "crop"] = "stretch"
    per_class: int | None = Field(default=None, ge=1)
    subset_seed: int | None = Field(default=None, ge=0)
    validation: Validation = Validation(fraction=0.1)
    batch_size: int = Field(default=64, ge=2)
    images_per_class: int | None = Field(default=None, ge=2)
    augment: str = "crop-flip"
    teacher_view: TeacherView | None = None
    views: int | None = Field(default=None, ge=1)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    memory_gb: float = Field(default=8.0, ge=0)
    workers: int | None = Field(default=None, ge=0)

    @field_validator("name")
    @classmethod
    def _known_data(cls, name: str) -> str:
        try:
            check_dataset_name(name)
        except UserError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("augment")
    @classmethod
    def _known_augmentation(cls, augment: str) -> str:
        _known_augmentation(without_mixup(augment)[0])
        return augment

    @model_validator(mode="after")
    def _fingerprint_of_files(self) -> Data:
        if self.fingerprint is not None and self.name not in LAYOUTS:
            raise ValueError(
                f"fingerprint is for data sets of image files such as 'folder', not for {self.name!r}; drop it"
            )
        return self

    @model_validator(mode="after")
    def _crop_to_a_size(self) -> Data:
        if self.fit == "crop" and self.image_size is None:
            raise ValueError("fit: crop needs the image_size to crop to, such as image_size: 224")
        return self

    @model_validator(mode="after")
    def _mean_with_std(self) -> Data:
        if (self.mean is None) != (self.std is None):
            raise ValueError(
                "give both mean and std, or neither (then they are those of the training images)"
            )
        return self


def _known_network(name: str) -> str:
    try:
        check_network_name(name)
    except UserError as error:
        raise ValueError(str(error)) from None
    return name


NetworkName = Annotated[str, AfterValidator(_known_network)]


def _no_argument_of_gkd(options: dict[str, Any]) -> dict[str, Any]:
    for key in options:
        if not key.isidentifier():
            raise ValueError(
                f"{key!r} is no name of an option; a space follows the colon, as in {{img_size: 32}}"
            )
    for key in ("name", "num_classes", "in_channels", "taps"):
        if key in options:
            raise ValueError(f"gkd itself gives the network its {key!r}; drop that option")
    return options


NetworkOptions = Annotated[dict[str, Any], AfterValidator(_no_argument_of_gkd)]


class MapTap(Section):
    """A tapped module whose output's layout does not follow from its dimensions (``gkd.core.tapped.Tap``)."""

    path: str
    layout: Literal["nchw", "nhwc", "tokens"] | None = None
    prefix_tokens: int | None = Field(default=None, ge=0)


class Taps(Section):
    """Which modules of a network give what losses read; what is left out has its family's default.

    Attributes:
        maps: module paths, shallow to deep.
        head: the last linear layer.
        embedding: the module whose output is the embedding, where that is not the head's input.
        stages: the modules to call one after the other to each map, and from the last map to the embedding: one list
            more than maps; for spot-adaptive routing, which cuts the network there.
    """

    maps: tuple[str | MapTap, ...] | None = None
    head: str | None = None
    embedding: str | MapTap | None = None
    stages: tuple[tuple[str, ...], ...] | None = None


class TeacherTraining(Section):
    """How a teacher is trained where no checkpoint is given: an ordinary run of a method without a teacher."""

    method: str = "student"
    epochs: int = Field(default=200, ge=1)
    seed: int = 0
    optimiser: Optimiser = Optimiser()
    batch_size: int | None = Field(default=None, ge=2)


_EXPECTED = re.compile(r"(\d+(?:\.\d+)?)\s*%?\s*(?:(?:±|\+-|\+/-)\s*(\d+(?:\.\d+)?)\s*%?)?")


_TOLERANCE = 0.5  # percentage points


def _expected(text: Any) -> Any:
    match = _EXPECTED.fullmatch(str(text).strip())
    if match is None or float(match[1]) > 100:
        raise ValueError(
            f"{text!r} is not an accuracy in percent, perhaps with a tolerance in points, such as '75.61 ± 0.3'"
        )
    return f"{match[1]} ± {match[2] or _TOLERANCE}"


class Side(Section):
    """What student and teacher have in common: how the network is built."""

    network: NetworkName
    options: NetworkOptions = {}
    taps: Taps = Taps()
    checkpoint: HomePath | None = None

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if not is_external(self.network):  # others say what they take when they are built
            try:
                check_network_options(self.network, self.options)
            except UserError as error:
                raise ValueError(str(error)) from None
        return self


class Teacher(Side):
    """The teacher: a checkpoint to load, or a network to train first.

    Attributes:
        network, checkpoint: what to build, and the weights to load; without them it is trained.
        options: further keywords for what builds the network, such as ``img_size: 32``.
        taps: the modules to tap instead of the family's defaults.
        sha256: the checkpoint's checksum, verified when it is loaded.
        expect: its test accuracy in percent, such as ``75.61 ± 0.3`` (± 0.5 where nothing is said); another one when
            it is loaded is refused.
        weights: which student of the training run becomes the teacher.
        data: another data set than the student's.
        mean, std: the teacher's input normalisation where its file does not say it.
    """

    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    expect: Annotated[str, BeforeValidator(_expected)] | None = None
    weights: Literal["last", "best"] = "last"
    train: TeacherTraining = TeacherTraining()
    data: Data | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @field_validator("data")
    @classmethod
    def _no_view_of_a_view(cls, data: Data | None) -> Data | None:
        if data is not None and data.teacher_view is not None:
            raise ValueError("teacher_view says what the teacher sees of the student's data: write it there")
        return data


class Student(Side):
    """The student's network and, where it does not start from random weights, its checkpoint.

    Attributes:
        network, options, taps, checkpoint: as in ``Teacher``.
        pretrain: trains it on the base classes of a middle-shot task first, for all runs that start there; all but
            the head is taken.
    """

    pretrain: TeacherTraining | None = None

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.pretrain is not None and self.checkpoint is not None:
            raise ValueError("give checkpoint or pretrain, what the student starts from, not both")
        return self


class Evaluate(Section):
    """How often and how the student is judged.

    Attributes:
        every: epochs from one validation to the next.
        batch_size: images a forward pass; it changes no result.
        metrics: what is computed of the test logits beside the accuracy: names (``gkd.metrics.METRICS``) or
            ``pkg.module:name``.
    """

    every: int = Field(default=1, ge=1)
    batch_size: int = Field(default=512, ge=1)
    metrics: tuple[str, ...] = ()

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for name in metrics:
            try:
                check_metric_name(name)
            except UserError as error:
                raise ValueError(str(error)) from None
        if len(set(metrics)) < len(metrics):
            raise ValueError(f"a metric stands twice in {', '.join(metrics)}; name each once")
        return metrics


class Run(Section):
    """Length, seed and machine of a run; only epochs, seed, precision and deterministic name it."""

    epochs: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Literal["auto", "float32", "bf16"] = "auto"
    deterministic: bool = False
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    out: HomePath = Path("runs")
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    log_seconds: float = Field(default=10.0, ge=0)
    cache_gb: float = Field(default=8.0, gt=0)
    allow_changed: tuple[Literal["versions", "threads", "device"], ...] = ()


class MethodRow(Section):
    """A row of a grid that is a method under its own label, with some settings changed.

    Attributes:
        label: the row's name in the table.
        method: the method's name.
        set: dotted key -> value, such as ``optimiser.lr: 0.2``.
        terms: term -> its keys, changed in every stage that has the term, such as ``induced: {weight: 10}``.
    """

    label: str
    method: str
    set: dict[str, Any] = {}
    terms: dict[str, dict[str, Any]] = {}


class Compare(Section):
    """The axes of a grid: ``gkd compare`` runs every cell and prints one table.

    Attributes:
        methods: names of methods, or labelled variants of one; each is one row a relation.
        seeds: values of ``run.seed``; they are averaged over.
        axes: any other dotted key -> its values.
        baseline: the method that the others are compared with, image by image.
        report: what the table compares: test accuracy of the ``last`` epoch's student or of the ``best``
            on validation; or, for tuning, the best ``validation`` accuracy alone, without any test number.
        results: a folder for the table and its cells, so that they can be committed; None keeps
            them beside the runs.
    """

    methods: tuple[str | MethodRow, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    axes: dict[str, tuple[Any, ...]] = {}
    baseline: str = "student"
    report: Literal["last", "best", "validation"] = "last"
    results: HomePath | None = None

    @model_validator(mode="after")
    def _rows_have_names(self) -> Compare:
        labels = [row if isinstance(row, str) else row.label for row in self.methods]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"methods has two rows called {label!r}; give each its own label")
        if self.baseline not in labels:
            raise ValueError(
                unknown("baseline", self.baseline, labels) + f" As in compare.baseline={labels[0]}."
            )
        return self


class Experiment(Section):
    """A whole experiment, in the order of the file."""

    task: SerializeAsAny[TaskOptions]
    data: Data
    teacher: Teacher | None = None
    student: Student
    method: Method
    optimiser: dict[str, Any] = {}
    evaluate: Evaluate = Evaluate()
    run: Run = Run()
    compare: Compare | None = None
