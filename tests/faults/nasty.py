"""Values that no one means: for configs, headers and names."""

from __future__ import annotations

from typing import Any

HUGE = 10**30
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 1000, 2**31, 2**63, HUGE, -HUGE, 0.0, -0.0, 0.5, 1.0, -1.5, 1e-300, 1e300,
    float("nan"), float("inf"), -float("inf"), "", " ", "a", "0", "1", "-1", "1e-3", "nan", "null", "true", "auto",
    "none", "a\0b", "a\nb", "ÄÖ日本", "\u202e", "\x1b[31mred", "[bold]", "$\\frac{1}$", "../..", "./none.yaml",
    "nowhere.pth", "no.such:module", "os:system", "x" * 300, "9" * 5000, "a=b", "{}", "[", [], [0], [None], [[]],
    ["a", "a"], [0, 1, 2], [float("nan")], {}, {"a": 1}, {"name": "a"}, {"": None}, {"a": {"b": {"c": [{}]}}}, {0: 1},
)  # fmt: skip
# Keys that a user may write into an experiment; each a place for a value of the wrong kind.
KEYS = (
    "task", "task.name", "task.classes", "task.teacher_classes", "task.student_classes", "task.order", "task.size",
    "task.shift", "task.aliases", "task.base", "task.increment", "task.steps", "task.memory_total",
    "task.memory_per_class", "task.selection", "task.base_epochs", "task.start_from", "task.fresh_student",
    "task.novel", "task.validation", "task.ways", "task.shots", "task.most_shots", "task.queries", "task.tasks",
    "task.draw", "task.frozen", "task.episodes", "task.episodes.ways", "task.episodes.shots", "task.episodes.queries",
    "task.episodes.count", "task.episodes.classifiers", "data", "data.name", "data.root", "data.fingerprint",
    "data.rotations", "data.channels", "data.image_size", "data.fit", "data.per_class", "data.subset_seed",
    "data.validation", "data.validation.per_class", "data.validation.fraction", "data.validation.take",
    "data.validation.seed", "data.batch_size", "data.images_per_class", "data.augment", "data.teacher_view",
    "data.teacher_view.image_size", "data.teacher_view.channels", "data.teacher_view.augment", "data.views",
    "data.mean", "data.std", "data.memory_gb", "data.workers", "teacher", "teacher.network", "teacher.options", "teacher.taps",
    "teacher.taps.maps", "teacher.taps.head", "teacher.checkpoint", "teacher.sha256", "teacher.expect",
    "teacher.weights", "teacher.train", "teacher.train.method", "teacher.train.epochs", "teacher.train.seed",
    "teacher.train.batch_size", "teacher.train.optimiser", "teacher.data", "teacher.mean", "teacher.std", "student",
    "student.network", "student.options", "student.taps", "student.taps.embedding", "student.taps.stages",
    "student.checkpoint", "student.pretrain", "method", "method.name", "method.stages", "method.spots", "method.judge",
    "method.growth", "method.growth.new", "method.exemplars", "method.after", "method.network", "optimiser",
    "optimiser.name", "optimiser.lr", "optimiser.momentum", "optimiser.nesterov", "optimiser.weight_decay",
    "optimiser.schedule", "optimiser.milestones", "optimiser.gamma", "optimiser.clip_norm", "optimiser.options",
    "evaluate", "evaluate.every", "evaluate.batch_size", "evaluate.metrics", "run", "run.epochs", "run.seed",
    "run.precision", "run.deterministic", "run.device", "run.threads", "run.out", "run.checkpoint_seconds",
    "run.log_seconds", "run.cache_gb", "run.allow_changed", "compare", "compare.methods", "compare.seeds",
    "compare.axes", "compare.baseline", "compare.report", "compare.results", "extends", "nonsense", "data.nonsense",
)  # fmt: skip
STAGE_KEYS = (
    "epochs", "share", "terms", "optimiser.lr", "optimiser.schedule", "train", "data", "episodes", "select", "start",
    "spots", "mixup", "nonsense",
)  # fmt: skip
TERM_KEYS = (
    "loss", "weight", "scale", "rows", "at", "head", "temperature", "margin", "schedule", "samples", "nonsense",
    "power", "order", "mining",
)  # fmt: skip
