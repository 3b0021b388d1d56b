"""The words that the options of commands take; importing this imports nothing else, so that ``--help`` is quick."""

from __future__ import annotations

# How new classes are told apart, on a student's embedding; the first is the default.
RECOGNISERS = ("cosine", "nearest-mean", "logistic")
# The forms in which answers are printed; the first is the default.
ANSWER_FORMATS = ("text", "csv", "json")
# The formats of an exported student.
FORMATS = ("safetensors", "pt2", "onnx")
