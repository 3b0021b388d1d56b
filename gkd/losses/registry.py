"""The losses that a method may name: gkd's own, those of installed packages, and a user's own by import name.

A loss of gkd is registered beside its function::

    @loss("sp", paper="Tung, Mori, ICCV 2019")
    def sp_loss(student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor: ...

A third party's is a plain function, or an ``nn.Module`` that is built from the shapes of one sample on both sides; it
is named under the entry-point group ``gkd.losses`` or, in YAML, as ``loss: pkg.module:name``. It needs no more than its
signature (``gkd.losses.signature``); a :class:`Loss` in its place states what a signature cannot.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError, unknown
from gkd.core.plugins import entry_point_table, load_plugin, plugin
from gkd.core.user_code import import_attribute, is_import_name, told
from gkd.losses.needs import NEEDS, reads_teacher
from gkd.losses.signature import Filled, Option, Signature, checked, signature_of

__all__ = ["LOSSES", "Loss", "loss_entry", "loss_names"]

Function = TypeVar("Function", bound=Callable[..., Tensor])
Counted = TypeVar("Counted", bound=Callable[..., tuple[Tensor, Tensor]])
Module = TypeVar("Module", bound=type[nn.Module])


@dataclass(frozen=True)
class Loss:
    """A loss as a method sees it.

    Attributes:
        function: the pure function; it returns a 0-dim tensor.
        paper: where it was published.
        counted: the same function returning ``(loss, count)``, where the loss is a mean over a
            number that the batch decides.
        refusal: gives the reason why options are undefined together, or None; called before training.
        module: the class that owns parameters or state around the function, or None; built from the shapes of one
            sample on both sides, it is called in place of the function.
        takes_mixed_labels: whether ``labels`` may be a distribution over classes.
        prepared_by: the options that a term of the same name must have in an earlier stage, for some options; None
            where nothing must come first.
        foreign: the name of a third party's loss; None of gkd's own.
    """

    function: Callable[..., Tensor]
    paper: str
    counted: Callable[..., tuple[Tensor, Tensor]] | None = None
    refusal: Callable[[dict[str, Any]], str | None] | None = None
    module: type[nn.Module] | None = None
    takes_mixed_labels: bool = False
    prepared_by: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None
    foreign: str | None = None

    @property
    def public_name(self) -> str:
        """The name of the function or class that a method calls."""
        return (self.module or self.function).__name__

    @property
    def called(self) -> Callable[..., Tensor]:
        """The callable that takes the tensors: the module's forward, or the function."""
        return self.module.forward if self.module else self.function

    @cached_property
    def _call(self) -> Signature:
        return signature_of(self.called)

    @cached_property
    def _construction(self) -> Signature:
        return signature_of(self.module.__init__) if self.module else self._call

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """The inputs of the loss, in order; each name is one of ``NEEDS``."""
        return self._call.needs

    @cached_property
    def spot_needs(self) -> tuple[str, ...]:
        """Those of its inputs that are outputs at a term's spots."""
        return tuple(need for need in self.needs if NEEDS[need].at_spot)

    @cached_property
    def needs_teacher(self) -> bool:
        return reads_teacher(self.needs)

    @cached_property
    def needs_target(self) -> bool:
        """Whether each row's class must be among the shared ones: it compares logits and reads a label."""
        return "labels" in self.needs and self.compares_classes and not self.takes_mixed_labels

    @cached_property
    def compares_classes(self) -> bool:
        """Whether it compares what student and teacher say of the classes that they share."""
        return not {"teacher_logits", "teacher_weight"}.isdisjoint(self.needs)

    @cached_property
    def reads_pairs_of_spots(self) -> bool:
        """Whether it reads a spot and the one that follows it."""
        return any(NEEDS[need].after for need in self.needs)

    @cached_property
    def reads_every_spot(self) -> bool:
        """Whether it reads all of a term's spots at once."""
        return any(NEEDS[need].every for need in self.needs)

    @cached_property
    def takes_auxiliary_head(self) -> bool:
        """Whether it reads logits and their labels alone, which an auxiliary head can give."""
        return set(self.needs) == {"student_logits", "labels"} and self.module is None

    @property
    def stated_options(self) -> Mapping[str, Option]:
        """The hyper-parameters: default, type, words and range of each."""
        return self._construction.options

    @cached_property
    def options(self) -> dict[str, Any]:
        """The hyper-parameters and their defaults; one without a default is left out."""
        return {name: each.default for name, each in self.stated_options.items() if not each.required}

    @property
    def filled(self) -> Mapping[Filled, str]:
        """The parameters that the caller may fill beside the inputs, by their names."""
        return self._call.filled

    @property
    def takes_labels(self) -> bool:
        """Whether the module is built from the training set's labels."""
        return self.module is not None and Filled.BANK_LABELS in self._construction.filled

    @property
    def built_from_shapes(self) -> bool:
        """Whether the module is built from the shapes of one sample on both sides."""
        return self.module is not None and bool(self._construction.needs)

    def build(
        self,
        shapes: Sequence[Any],
        options: Mapping[str, Any],
        labels: Tensor | None,
        num_classes: int | None = None,
    ) -> nn.Module:
        """Build the module for the shapes of one sample on both sides.

        Args:
            shapes: the student's and the teacher's; each a list of shapes where it reads all of a term's spots.
            options: the hyper-parameters.
            labels: int64 ``[N]``, the training set's labels, where the module is built from them.
            num_classes: how many classes the term compares, where the module is built from that.

        Raises:
            UserError: a third party's module that fails.
        """
        assert self.module is not None, f"{self.public_name} owns nothing"
        given = {Filled.BANK_LABELS: labels, Filled.NUM_CLASSES: num_classes}
        more = {name: given[mark] for mark, name in self._construction.filled.items() if mark in given}
        try:
            return self.module(*(shapes if self.built_from_shapes else ()), **options, **more)
        except UserError:
            raise
        except Exception as error:
            if self.foreign is None:
                raise
            raise self._failure(f"cannot be built for {' and '.join(map(str, shapes))}", error) from error

    def call(self, form: Callable[..., Any], inputs: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Call a form of the loss: its function, its counted one, or the module that was built.

        A third party's loss reads float32 where the step computes in half precision, as those of gkd make it.

        Raises:
            UserError: a third party's loss that fails, or gives something else than a 0-dim tensor.
        """
        if self.foreign is None:
            return form(*inputs, **options)
        try:
            value = form(*map(_not_half, inputs), **options)
        except UserError:
            raise
        except Exception as error:
            raise self._failure(f"fails on {self._shapes(inputs)}", error) from error
        for part in value if form is self.counted else (value,):
            if not isinstance(part, Tensor) or part.dim() > 0:
                what = (
                    f"a tensor {list(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}"
                )
                raise UserError(
                    f"The loss {self.foreign!r} gives {what} on {self._shapes(inputs)}; let it give a 0-dim tensor, "
                    "the mean over the batch.",
                    code="not-a-scalar",
                )
        return value

    def _shapes(self, inputs: Sequence[Any]) -> str:
        return ", ".join(f"{need} {_shape(each)}" for need, each in zip(self.needs, inputs, strict=True))

    def _failure(self, what: str, error: Exception) -> UserError:
        """The sentence on a third party's code that fails."""
        return UserError(f"The loss {self.foreign!r} {what}: {told(error)}", code="loss-fails")


_HALF = (torch.bfloat16, torch.float16)


def _not_half(given: Any) -> Any:
    """An input of a loss, a tensor or several, in float32 where it is in half precision."""
    if isinstance(given, (list, tuple)):
        return [_not_half(each) for each in given]
    return given.float() if given.dtype in _HALF else given


def _shape(given: Any) -> Any:
    return [_shape(each) for each in given] if isinstance(given, (list, tuple)) else list(given.shape)


LOSSES: dict[str, Loss] = {}  # gkd's own; filled by the decorators below when ``gkd.losses`` is imported


def loss(name: str, *, paper: str, **facts: Any) -> Callable[[Function], Function]:
    """Register a function as the loss of a name.

    Args:
        name: what a method calls it.
        paper: where it was published.
        facts: further fields of :class:`Loss`.
    """

    def register(function: Function) -> Function:
        called = checked(function)
        LOSSES[name] = Loss(called, paper, **facts)
        return called  # type: ignore[return-value]

    return register


def module_loss(
    name: str, function: Callable[..., Tensor], *, paper: str, **facts: Any
) -> Callable[[Module], Module]:
    """Register a module, which owns parameters or state around a function, as the loss of a name."""

    def register(module: Module) -> Module:
        module.__init__ = checked(module.__init__)  # type: ignore[method-assign]
        module.forward = checked(module.forward)
        LOSSES[name] = Loss(function, paper, module=module, **facts)
        return module

    return register


def counted_form(name: str) -> Callable[[Counted], Counted]:
    """Register the form of a loss that also returns the count that it is the mean over."""

    def register(function: Counted) -> Counted:
        called = checked(function)
        LOSSES[name] = replace(LOSSES[name], counted=called)
        return called  # type: ignore[return-value]

    return register


GROUP = "gkd.losses"  # of entry points
_FOREIGN: dict[str, Loss] = {}
_CHECKED: dict[str, Loss] = {}  # the entries of LOSSES that were looked at


def loss_entry(name: str) -> Loss:
    """The loss of a name: gkd's own, an installed package's, or the one behind ``pkg.module:name``, which is imported.

    Raises:
        UserError: an unknown name, a module that cannot be imported, or something that is no loss.
    """
    if name in entry_point_table(GROUP):
        plugin(GROUP, name, what="loss", ours=LOSSES)  # refuses a plug-in of one of gkd's own names
    if name in LOSSES:
        if _CHECKED.get(name) is not LOSSES[name]:  # anyone may put something into a dict
            LOSSES[name] = _CHECKED[name] = _as_loss(LOSSES[name], name)
        return LOSSES[name]
    if name not in _FOREIGN:
        _FOREIGN[name] = replace(_as_loss(_foreign_object(name), name), foreign=name)
    return _FOREIGN[name]


def imported_loss(name: object) -> Loss | None:
    """The loss of a name where nothing needs to be imported for it; otherwise None."""
    return loss_entry(name) if isinstance(name, str) and (name in LOSSES or name in _FOREIGN) else None


def loss_names() -> list[str]:
    """The names of gkd's losses and of those of installed packages."""
    return [*LOSSES, *(name for name in entry_point_table(GROUP) if name not in LOSSES)]


def _foreign_object(name: str) -> Any:
    if name in entry_point_table(GROUP):
        return load_plugin(GROUP, name, what="loss")
    if is_import_name(name):
        return import_attribute(name, what="loss")
    raise UserError(unknown("loss", name, loss_names()), code="unknown-loss")


def _as_loss(value: Any, name: str) -> Loss:
    """The entry of a third party's function or module, from its signature and docstring."""
    paper = (inspect.getdoc(value) or "no docstring").splitlines()[0].rstrip(".")
    if isinstance(value, Loss):
        entry = value
    elif isinstance(value, type) and issubclass(value, nn.Module):
        entry = Loss(value.forward, paper, module=value)
    elif inspect.isfunction(value):
        entry = Loss(checked(value), paper)
    else:
        raise UserError(
            f"The loss {name!r} is a {type(value).__name__}; name a function, a torch.nn.Module class or a "
            "gkd.losses.Loss.",
            code="not-a-loss",
        )
    try:
        if not entry.needs:
            raise UserError(
                f"it reads nothing; its positional parameters are among {', '.join(NEEDS)}.", code="no-inputs"
            )
        for need in entry.needs:
            if need not in NEEDS:
                raise UserError(
                    unknown("need", need, NEEDS)
                    + " An option is keyword-only: write it after a * in the signature.",
                    code="unknown-need",
                )
        _ = entry.stated_options
    except UserError as error:
        raise UserError(f"The loss {name!r}: {error}", code=error.code) from None
    except (NameError, TypeError, ValueError) as error:  # annotations that name something missing
        raise UserError(
            f"The signature of the loss {name!r} cannot be read: {told(error)}", code="signature-unreadable"
        ) from error
    return entry
