"""The two sides of an experiment file: student and teacher, their networks, weights, taps and training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from gkd.config.data_section import Data
from gkd.config.method_files import is_method_file
from gkd.config.section import HomePath, Section
from gkd.core.errors import shown
from gkd.methods.optimiser import Optimiser
from gkd.models import check_network_name, check_network_options
from gkd.models.class_names import TEMPLATE
from gkd.models.external import is_external
from gkd.models.hub import SCHEME, hub_file
from gkd.models.pretrained import describe
from gkd.storage.preprocessing import Interpolation
from gkd.storage.run_files import WEIGHTS


def _known_network(name: str) -> str:
    check_network_name(name)
    return name


NetworkName = Annotated[str, AfterValidator(_known_network)]


_NOT_AN_OPTION = {
    "num_classes": "gkd itself gives the network its 'num_classes'; drop that option. What the columns of a trained "
    "teacher are called is teacher.classes, and null of one without classes"
}


def _no_argument_of_gkd(options: dict[str, Any]) -> dict[str, Any]:
    for key in options:
        if not key.isidentifier():
            raise ValueError(
                f"{key!r} is no name of an option; a space follows the colon, as in {{img_size: 32}}"
            )
    for key in ("name", "num_classes", "in_channels", "taps"):
        if key in options:
            raise ValueError(
                _NOT_AN_OPTION.get(key, f"gkd itself gives the network its {key!r}; drop that option")
            )
    return options


NetworkOptions = Annotated[dict[str, Any], AfterValidator(_no_argument_of_gkd)]


class MapTap(Section):
    """A tapped module whose output's layout does not follow from its dimensions (``gkd.core.tapped.Tap``).

    Attributes:
        path: the module's.
        layout: of its output: ``nchw``, ``nhwc`` or ``tokens`` ``[B, T, D]``; None sees it in the dimensions.
        prefix_tokens: tokens before those of the image, such as a class token; None takes the fewest that leave a
            grid of the image's proportions.
    """

    path: str
    layout: Literal["nchw", "nhwc", "tokens"] | None = None
    prefix_tokens: int | None = Field(default=None, ge=0)


def _path_of_number(path: Any) -> Any:
    """The modules of a ``torch.nn.Sequential`` are called by numbers."""
    if isinstance(path, int) and not isinstance(path, bool):
        return str(path)
    if not isinstance(path, (str, Mapping, MapTap)):
        raise ValueError(f"{shown(path)} is no module path such as layer3, nor a section with a path")
    return path


class Taps(Section):
    """The modules whose outputs losses read; a key that is left out has the default of the network's family.

    Attributes:
        maps: module paths, shallow to deep.
        head: the last linear layer.
        embedding: the module whose output is the embedding, where that is not the head's input.
        stages: the modules to call one after the other to each map, and from the last map to the embedding: one list
            more than maps; for spot-adaptive routing, which cuts the network there.
    """

    maps: tuple[Annotated[str | MapTap, BeforeValidator(_path_of_number)], ...] | None = None
    head: str | None = None
    embedding: str | MapTap | None = None
    stages: tuple[tuple[str, ...], ...] | None = None


class TeacherTraining(Section):
    """How a teacher is trained where no checkpoint is given: an ordinary run of a method without a teacher.

    Attributes:
        method: the name of the method.
        epochs: of that run.
        seed: of that run, whatever ``run.seed`` is, so that all students have one teacher.
        optimiser: of every stage of it.
        batch_size: images a step of it; None is as the student's.
    """

    method: str = "student"
    epochs: int = Field(default=200, ge=1)
    seed: int = 0
    optimiser: Optimiser = Optimiser()
    batch_size: int | None = Field(default=None, ge=2)

    @field_validator("method")
    @classmethod
    def _method_with_a_name(cls, method: str) -> str:
        if is_method_file(method):  # its content would have to name the student's run too
            raise ValueError(
                f"{method} is a file; a teacher is trained by a method with a name (gkd ls methods)"
            )
        return method


_EXPECTED = re.compile(r"(\d+(?:\.\d+)?)\s*%?\s*(?:(?:±|\+-|\+/-)\s*(\d+(?:\.\d+)?)\s*%?)?")


_TOLERANCE = 0.5  # percentage points
ABOVE_CHANCE = "auto"  # of teacher.expect


def _expected(text: Any) -> Any:
    if str(text).strip() == ABOVE_CHANCE:
        return ABOVE_CHANCE
    match = _EXPECTED.fullmatch(str(text).strip())
    if match is None or float(match[1]) > 100:
        raise ValueError(
            f"{text!r} is not an accuracy in percent, perhaps with a tolerance in points, such as '75.61 ± 0.3', nor "
            f"'{ABOVE_CHANCE}', which asks for one above chance"
        )
    return f"{match[1]} ± {match[2] or _TOLERANCE}"


def _weights_of_run(path: Path) -> Path:
    """A run's folder as a checkpoint is its last student."""
    weights = path / WEIGHTS["last"]
    return weights if weights.is_file() else path


def _from_hub(path: Any) -> Any:
    """An address on the hub is the file in its cache; anything else is as it is."""
    return hub_file(path) if isinstance(path, str) and path.startswith(SCHEME) else path


def _names(names: Any) -> Any:
    """``true`` is the usual template."""
    return TEMPLATE if names is True else None if names is False else names


def _last_or_best(which: Any) -> Any:
    if which not in ("last", "best"):
        raise ValueError(
            f"{shown(which)} is not 'last' or 'best', the student of a run that becomes the teacher; the weights that "
            "a library publishes are pretrained: true, or the name of a set"
        )
    return which


Checkpoint = Annotated[HomePath, BeforeValidator(_from_hub), AfterValidator(_weights_of_run)]


class Side(Section):
    """The fields that student and teacher have in common: how the network is built."""

    network: NetworkName
    options: NetworkOptions = Field(default={})
    taps: Taps = Taps()
    checkpoint: Checkpoint | None = None
    checkpoint_key: str | None = Field(default=None, min_length=1)
    pretrained: bool | str = False

    @model_validator(mode="after")
    def _weights_of_one_place(self) -> Self:
        if self.pretrained is not False and self.checkpoint is not None:
            raise ValueError("checkpoint and pretrained both say which weights to load; drop one of them")
        if self.pretrained is not False:
            describe(self.network, self.pretrained)
        if self.checkpoint_key is not None and self.checkpoint is None:
            raise ValueError(
                "checkpoint_key names an entry of the checkpoint, and none is given; give it, or drop it"
            )
        return self

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        check_options(self)
        return self


def check_options(section: Side | Peer) -> None:
    """Refuse options that a network of gkd's does not have; others say what they take when they are built."""
    if not is_external(section.network):
        check_network_options(section.network, section.options)


class Teacher(Side):
    """The teacher: a checkpoint to load, or a network to train first.

    Attributes:
        network: what to build.
        checkpoint: the weights to load, a file, one on the hub (``hf://owner/name/file``) or the folder of a run, whose
            last student is taken; without one it is trained.
        checkpoint_key: the entry of the file that holds them, such as ``state_dict_ema`` or ``model.student``;
            None takes the one that fits, the averaged weights before those that were averaged.
        pretrained: the weights that the network's library publishes: ``true`` for its default, or the name of a set,
            such as ``IMAGENET1K_V2`` (torchvision) or ``a1_in1k`` (timm); from the library's cache, or fetched.
        options: further keywords for what builds the network, such as ``img_size: 32``.
        taps: the modules to tap instead of the family's defaults.
        sha256: the checksum of the checkpoint's file, 64 hex digits, perhaps after ``sha256:``; or ``tensors:`` and 64
            hex digits, of what it holds however the file is arranged (``gkd.storage.weight_metadata.weights_name``).
            Verified when it is loaded.
        expect: its test accuracy in percent, such as ``75.61 ± 0.3`` (± 0.5 where nothing is said); another one when
            it is loaded is refused. ``auto`` refuses one that is not above chance over the classes that it shares
            with the student.
        classes: what the columns of a teacher that is not trained here are called: ``task``, the task's classes (of
            ``pretrained`` weights those that the library states); ``file``, those that its weight file states; a label
            set, such as ``imagenet-1k``; a list of names, or a file with one a line; null where it has none, or where
            nobody knows them.
        image_size, interpolation: short for those of ``data.teacher_view``, what the teacher sees.
        names: the vectors of class names in its embedding, for terms with ``centres: names``: a file of a tensor
            ``[D]`` under each name (``gkd.storage.class_vector_files``); of an ``open_clip/`` network also ``true``,
            what its text tower says to "a photo of a NAME.", or another text with ``{}`` in the name's place.
        weights: which student of the training run becomes the teacher.
        train: how it is trained where there is no checkpoint.
        data: another data set than the student's.
        mean, std: the teacher's input normalisation; None takes that of its file, or else of the images.
    """

    sha256: str | None = Field(default=None, pattern="^(sha256:|tensors:)?[0-9a-f]{64}$")
    expect: Annotated[str, BeforeValidator(_expected)] | None = None
    classes: Literal["task", "file"] | tuple[str, ...] | str | None = "task"
    image_size: int | None = Field(default=None, ge=1)
    interpolation: Interpolation | None = None
    names: Annotated[str | None, BeforeValidator(_names)] = None
    weights: Annotated[Literal["last", "best"], BeforeValidator(_last_or_best)] = "last"
    train: TeacherTraining = TeacherTraining()
    data: Data | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def is_given(self) -> bool:
        """Whether it is trained already, and not here."""
        return self.checkpoint is not None or self.pretrained is not False

    @property
    def keeps_classes(self) -> bool:
        """Whether its classes are its own, and not those that the task selects for it."""
        return self.classes != "task" or self.pretrained is not False

    @model_validator(mode="after")
    def _classes_of_a_given_teacher(self) -> Self:
        if self.classes != "task" and not self.is_given:
            raise ValueError(
                "classes names the columns of a teacher that is trained already: give its checkpoint or pretrained; "
                "the classes of one that is trained here are the task's (task.teacher_classes)"
            )
        if self.classes == "file" and self.checkpoint is None:
            raise ValueError("classes: file is of a checkpoint, and none is given; leave classes out")
        return self

    @field_validator("data")
    @classmethod
    def _no_view_of_a_view(cls, data: Data | None) -> Data | None:
        if data is not None and data.teacher_view is not None:
            raise ValueError("teacher_view says what the teacher sees of the student's data: write it there")
        if data is not None and data.unlabelled is not None:
            raise ValueError("unlabelled images are the student's: write them at data.unlabelled")
        return data


class Peer(Section):
    """A second student, which is trained beside the first from random weights.

    Attributes:
        network, options, taps: as in ``Teacher``.
    """

    network: NetworkName
    options: NetworkOptions = Field(default={})
    taps: Taps = Taps()

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        check_options(self)
        return self


class Student(Side):
    """The student's network and, where it does not start from random weights, its checkpoint.

    Attributes:
        network, options, taps, checkpoint_key: as in ``Teacher``.
        checkpoint: the weights to start from, a file or the folder of a run; of other classes all but the head. None
            starts from random ones.
        pretrained: as in ``Teacher``; the body is loaded, and the head is new.
        pretrain: trains it on the base classes of a middle-shot task first, for all runs that start there; all but
            the head is taken.
        peer: the second student of a method that trains two (``mutual``), which both are judged; None is a network as
            the student's, from other initial weights.
    """

    pretrain: TeacherTraining | None = None
    peer: Peer | None = None

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.pretrain is not None and (self.checkpoint is not None or self.pretrained is not False):
            raise ValueError(
                "give checkpoint, pretrained or pretrain, what the student starts from: one of them"
            )
        return self
