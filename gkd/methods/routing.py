"""Routing as data: which samples the terms of a stage distil at which spots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gkd.methods.term_checks import ALL
from gkd.methods.terms import Term


class Routing(BaseModel):
    """Which samples the terms of a stage distil at which spots.

    ``spots: adaptive`` is short for ``spots: {policy: adaptive}``.

    Attributes:
        policy: ``always`` distils every sample at every spot (no routing); ``adaptive`` follows a trained
            policy, ``anti`` its opposite, and ``random`` a fair coin.
        classify_weight: g, 1 or more: the cross-entropy of the spliced network counts g-fold while it is above the
            student's own, and 1/g-fold below.
        keep: share of each batch that the last gate should distil; each sample that is missing costs 1.
        temperature: of the Gumbel-softmax; it shapes the policy's gradient, not the choices.
        initial_bias: added at the start to the policy's score for distilling; None is 10 for two networks of
            one family (then nearly every gate starts on) and 0 for others. A family is a class of networks,
            of whatever depth and width; the authors take 0 for resnet32x4 and resnet32 too.
        lr_scale, decay_scale: the policy's learning rate and weight decay as multiples of the stage's; the paper
            halves the rate and has a decay of 1e-3 beside the student's 5e-4.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    policy: Literal["always", "adaptive", "anti", "random"] = "always"
    classify_weight: float = Field(default=1.0, ge=1)
    keep: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=5.0, gt=0)
    initial_bias: float | None = None
    lr_scale: float = Field(default=0.5, gt=0)
    decay_scale: float = Field(default=2.0, ge=0)

    @model_validator(mode="after")
    def _others_train_no_policy(self) -> Routing:
        more = [
            key for key, value in self if key != "policy" and value != type(self).model_fields[key].default
        ]
        if more and not self.trained:
            raise ValueError(f"{', '.join(more)} is read by adaptive and anti alone; add policy: adaptive")
        return self

    @property
    def trained(self) -> bool:
        """Whether the gates come from a policy that is trained."""
        return self.policy in ("adaptive", "anti")


def routing_problem(terms: Mapping[str, Term]) -> str | None:
    """The reason why terms cannot be routed, a sentence whose subject is the policy; None where they can."""
    routed = {name: term for name, term in terms.items() if term.needs_teacher}
    if not routed:
        return "says where to distil, but no term of the stage reads a teacher; use spots: always"
    for name, term in routed.items():
        if not term.spot_pairs:
            return (
                f"routes what both networks have, but the term {name!r} reads {', '.join(term.needs)}, which is no one "
                "spot; declare spots: always for this stage"
            )
        if term.reads_preact("student") or term.reads_preact("teacher"):
            return f"splices maps after their activation, but the term {name!r} reads some before it; use spots: always"
    readers = {term.teacher for term in routed.values()}
    if len(readers) > 1 or any(isinstance(teacher, tuple) or teacher == ALL for teacher in readers):
        return "routes what one teacher teaches, but the terms read several; name one, or use spots: always"
    if len({term.samples for term in routed.values()}) > 1:
        return "routes all terms on clean images, or all on virtual samples; otherwise use spots: always"
    return None
