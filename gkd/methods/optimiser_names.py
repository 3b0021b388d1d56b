"""Optimisers by name: classes of ``torch.optim``, plug-ins, and a user's own; their options, and a trial of each."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from gkd.core.errors import UserError, unknown
from gkd.core.plugins import entry_point_table, load_plugin, plugin
from gkd.core.user_code import FORM, import_object, is_import_name, told
from gkd.methods.optimiser_choices import NOT_TAKEN

GROUP = "gkd.optimisers"
# The two optimisers with their own keys in the optimiser section: momentum and nesterov, and betas.
SGD, ADAMW = "sgd", "adamw"
_BUILT_IN: dict[str, type[torch.optim.Optimizer]] = {SGD: torch.optim.SGD, ADAMW: torch.optim.AdamW}
_WHAT = "optimiser"


def torch_optimiser(name: str) -> type[torch.optim.Optimizer] | None:
    """``sgd``, ``adamw`` or a class of ``torch.optim`` by its name there; None for any other name."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    named = getattr(torch.optim, name, None)
    of_torch = isinstance(named, type) and issubclass(named, torch.optim.Optimizer)
    return named if of_torch and named is not torch.optim.Optimizer else None


def optimiser_names() -> list[str]:
    """``sgd``, ``adamw`` and the classes of ``torch.optim`` that a run can use; plug-ins are not among them."""
    of_torch = (
        name for name in dir(torch.optim) if torch_optimiser(name) is not None and name not in NOT_TAKEN
    )
    return [*_BUILT_IN, *sorted(of_torch)]


def needs_trial(name: str) -> bool:
    """Whether an optimiser is tried before training: any but ``sgd`` and ``adamw``."""
    return name.lower() not in _BUILT_IN


def check_optimiser_name(name: str) -> None:
    """Raise a UserError for an unknown name; import nothing."""
    if name in entry_point_table(GROUP):
        plugin(GROUP, name, what=_WHAT, ours=optimiser_names())  # refuses one named as torch's
    elif torch_optimiser(name) is None and not is_import_name(name):
        allowed = [*optimiser_names(), *entry_point_table(GROUP)]
        raise UserError(
            f"{unknown(_WHAT, name, allowed)} Or one of your own: {FORM}.", code="unknown-optimiser"
        )


def check_options(
    name: str, factory: Callable[..., Any], settings: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """All keywords for an optimiser: the settings of the section that it takes, and the options.

    Args:
        name: the optimiser's name, for the error.
        factory: its class, or a function that makes one; it takes parameter groups and ``lr``.
        settings: keywords from keys of the ``optimiser`` section.
        options: further keywords.

    Raises:
        UserError: an option that it does not take or that is a key of the section, no ``lr``, a weight decay
            that it does not take, or a step that needs a closure.
    """
    parameters = list(inspect.signature(factory).parameters.values())
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes = named[1:] if parameters and parameters[0].kind is not parameters[0].KEYWORD_ONLY else named
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in options:
        if key in settings or key == "params":
            raise UserError(
                f"The optimiser {name!r}: {key!r} is no option but a key of the optimiser section itself; write "
                f"optimiser.{key}.",
                code="option-reserved",
            )
        if key not in takes and not any_keyword:
            raise UserError(
                f"The optimiser {name!r}: {unknown('option', key, [t for t in takes if t not in settings])}",
                code="unknown-option",
            )
    step = getattr(factory, "step", None)
    closure = inspect.signature(step).parameters.get("closure") if step is not None else None
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"The optimiser {name!r} evaluates the loss several times a step, but gkd evaluates it once; take another, "
            f"such as {ADAMW}.",
            code="needs-closure",
        )
    if "lr" not in takes and not any_keyword:
        raise UserError(f"The optimiser {name!r} takes no lr, but every schedule sets one.", code="no-lr")
    settings = dict(settings)
    if "weight_decay" not in takes and not any_keyword:
        if settings["weight_decay"] != 0:
            raise UserError(
                f"The optimiser {name!r} has no weight decay, but optimiser.weight_decay is "
                f"{settings['weight_decay']:g}; set optimiser.weight_decay=0.",
                code="no-weight-decay",
            )
        del settings["weight_decay"]
    return {**settings, **options}


def build_optimiser(
    name: str, groups: Iterable[Mapping[str, Any]], settings: Mapping[str, Any], options: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Build an optimiser over parameter groups, each with its own multiples of ``lr`` and ``weight_decay``.

    Args:
        name: as :func:`check_optimiser_name` allows.
        groups: each with ``params``, ``lr_scale`` and ``decay_scale``.
        settings: keywords from keys of the ``optimiser`` section.
        options: further keywords.

    Raises:
        UserError: it cannot be imported, refuses its options or the parameters, or replaces the groups.
    """
    factory = _factory(name)
    keywords = check_options(name, factory, settings, options)
    scaled = scaled_groups(groups, settings["lr"], keywords.get("weight_decay"))
    try:
        made = factory(scaled, **keywords)
    except UserError:
        raise
    except Exception as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in keywords.items())
        raise UserError(
            f"The optimiser {name!r} cannot be built with {shown}: {told(error)}", code="build-failed"
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise UserError(
            f"The optimiser {name!r} gave a {type(made).__name__}; it must be a torch.optim.Optimizer.",
            code="not-an-optimiser",
        )
    if not all("lr" in group and "lr_scale" in group for group in made.param_groups):
        raise UserError(
            f"The optimiser {name!r} makes parameter groups of its own, but it must keep those that gkd passes, with "
            "their lr_scale and decay_scale.",
            code="other-parameter-groups",
        )
    return made


def scaled_groups(
    groups: Iterable[Mapping[str, Any]], lr: float, weight_decay: float | None
) -> list[dict[str, Any]]:
    """Parameter groups with their multiples of a learning rate and, where there is one, of a weight decay."""
    return [
        {
            **group,
            "lr": lr * group["lr_scale"],
            **({} if weight_decay is None else {"weight_decay": weight_decay * group["decay_scale"]}),
        }
        for group in groups
    ]


def _factory(name: str) -> Callable[..., Any]:
    """The class or function that makes an optimiser of that name; a plug-in or a user's own is imported."""
    check_optimiser_name(name)
    factory: Callable[..., Any] | None = torch_optimiser(name)
    if factory is None:
        factory = (
            import_object(name, what=_WHAT) if is_import_name(name) else load_plugin(GROUP, name, what=_WHAT)
        )
    return factory


def try_optimiser(name: str, settings: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Try an optimiser: two steps on small matrices in two groups, then its state through a file and back.

    Raises:
        UserError: it cannot be built, a step fails, or its state is not of tensors and numbers alone.
    """
    with torch.random.fork_rng(devices=[]):
        weights = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3, 3))]
        groups = [
            {"params": [weights[0]], "lr_scale": 1.0, "decay_scale": 1.0},
            {"params": [weights[1]], "lr_scale": 0.5, "decay_scale": 0.0},
        ]
        optimiser = build_optimiser(name, groups, settings, options)
        try:
            for _ in range(2):
                for weight in weights:
                    weight.grad = torch.full_like(weight, 0.1)
                optimiser.step()
        except Exception as error:
            raise UserError(
                f"The optimiser {name!r} fails at a step: {told(error)}", code="step-failed"
            ) from error
        try:
            file = io.BytesIO()
            torch.save(optimiser.state_dict(), file)
            file.seek(0)
            optimiser.load_state_dict(torch.load(file, weights_only=True))
        except Exception as error:
            raise UserError(
                f"The optimiser {name!r} has a state that no checkpoint of gkd can keep, for it is not of tensors, "
                f"numbers, strings, lists and dicts alone: {told(error)}",
                code="state-unsavable",
            ) from error
