"""Names of the files in a run folder, and packed correctness."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line knows the names below before it imports these
    import numpy as np
    from torch import Tensor

EPISODES = "episodes.json"  # in a run folder: the right answers of each network on each novel episode
MATRIX = "matrix.json"  # in a run folder: the accuracy matrices and the numbers derived from them
STEPS = "steps"  # in a run folder: a folder for each step, named by its number from 1
PROBLEMS = "problems"  # in the folder of a run of several problems: a folder for each, numbered from 1
FIT = "fit.json"  # in the folder of a run from Python: what its bits depend on
ROUTING = "routing.json"  # in a run folder: where routed distillation took place
CONFIG = "config.yaml"  # in a run folder: the resolved config
ENVIRONMENT = "env.json"  # in a run folder: machine, versions, and the source of code that is not gkd's
ORIGIN = "origin.json"  # in the folder of a run that went on from a shorter one: which one
SUMMARY = "summary.json"  # in a run's or a step's folder: its results, written when it has finished
CORRECT = "correct.json"  # in a run folder: which test images its students get right
FROZEN = "frozen "  # before a classifier's name: its answers on the embedding that the student starts from
CONFUSION = {"last": "confusion.csv", "best": "confusion-best.csv"}  # in a run's or a step's folder
WEIGHTS = {"last": "student.safetensors", "best": "student-best.safetensors"}
PEER_WEIGHTS = {"last": "peer.safetensors", "best": "peer-best.safetensors"}  # of the second of two students


def pack(correct: Tensor) -> str:
    """Bool ``[N]`` as hex, eight images a byte, most significant bit first."""
    import numpy as np

    return np.packbits(correct.numpy()).tobytes().hex()


def unpack(text: str, count: int) -> np.ndarray:
    """The Bool ``[count]`` array of ``pack``."""
    import numpy as np

    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=count).astype(bool)
