"""Losses: pure functions of tensors, and the registry of the names that methods use.

Each family is a file. A loss is registered beside its function (:mod:`gkd.losses.registry`), and this package exports
what a file lists in its ``__all__``, so that a new loss is written into one file.
"""

# ruff: noqa: F401, F403, I001
from __future__ import annotations

from gkd.core.class_means import class_centres, induced_logits

# The families, in the order in which losses are listed.
from gkd.losses.responses import *
from gkd.losses.soft_labels import *
from gkd.losses.peers import *
from gkd.losses.logit_levels import *
from gkd.losses.affinity import *
from gkd.losses.similarity import *
from gkd.losses.angles import *
from gkd.losses.maps import *
from gkd.losses.modules import *
from gkd.losses.generative import *
from gkd.losses.branches import *
from gkd.losses.teacher_head import *
from gkd.losses.review import *
from gkd.losses.overhaul import *
from gkd.losses.boundaries import *
from gkd.losses.semantic import *
from gkd.losses.singular import *
from gkd.losses.contrastive import *
from gkd.losses.regression import *
from gkd.losses.embeddings import *
from gkd.losses.queue_similarity import *
from gkd.losses.tuples import *
from gkd.losses.induced import *
from gkd.losses.episodes import *
from gkd.losses.incremental import *

# What the losses are built from.
from gkd.losses.needs import *
from gkd.losses.projectors import *
from gkd.losses.registry import *
from gkd.losses.regressors import *
from gkd.losses.signature import *
