"""The classes of ``torch.optim`` that no run can use; importing this imports nothing else, so that ``ls`` is quick."""

from __future__ import annotations

# The base class; one that evaluates the loss several times a step; one for sparse gradients alone.
NOT_TAKEN = ("Optimizer", "LBFGS", "SparseAdam")
