"""The contract's rows of `specs`, and those of losses on heads and of several levels of logits."""

from __future__ import annotations

from dataclasses import replace

from . import specs
from .references.branches import ofa_reference
from .references.generative import (
    make_copies,
    make_generated,
    matched_copies,
    mgd_reference,
    norm_reference,
)
from .references.heads import (
    cat_kd_reference,
    make_attention,
    make_srrl,
    matched_attention,
    srrl_reference,
)
from .references.logit_levels import ctkd_reference, make_learnt, mlkd_reference
from .references.responses import make_logits, make_logits_both
from .specs import Spec, matched_logits, matched_maps

# Equal embeddings and equal logits: a head that says of the embedding what the logits say.
SRRL = Spec(
    make_srrl,
    srrl_reference,
    lambda x: {
        **x,
        "student_embedding": x["teacher_embedding"].clone(),
        "teacher_logits": x["teacher_embedding"] @ x["teacher_weight"].T + x["teacher_bias"],
    },
    options=({}, {"features": 0.5, "answers": 2.0, "compared": "probabilities"}),
)

OFA = Spec(
    make_logits_both,
    ofa_reference,
    matched_logits,
    options=({"power": 1.5}, {"temperature": 3.0, "standardise": True, "power": 0.7}),
    pulls_when_matched=True,
)

SPECS: dict[str, Spec] = {
    **specs.SPECS,
    "srrl": SRRL,
    "srrl_map": SRRL,  # the same function
    "mlkd": Spec(
        make_logits,
        mlkd_reference,
        matched_logits,
        options=(
            {},
            {"unsure": "rows", "temperature": 3.0, "spread": 1, "instances": 0.5, "batches": 2.0},
            {"unsure": "share", "spread": 0, "classes": 3.0, "standardise": True},
        ),
    ),
    "ctkd": Spec(make_learnt, ctkd_reference, matched_logits, options=({}, {"standardise": True})),
    "ofa": OFA,
    "ofa_branches": replace(OFA, options=OFA.options[:1]),  # the same function
    "mgd": Spec(make_generated, mgd_reference, matched_maps),
    "norm": Spec(make_copies, norm_reference, matched_copies),
    "cat_kd": Spec(
        make_attention,
        cat_kd_reference,
        matched_attention,
        options=({}, {"normalise": False, "size": 3}),
    ),
}
