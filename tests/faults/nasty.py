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
    "data.mean", "data.std", "data.memory_gb", "data.workers", "teacher", "teacher.network", "teacher.options",
    "teacher.taps", "teacher.taps.maps", "teacher.taps.head", "teacher.checkpoint", "teacher.sha256", "teacher.expect",
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
    "compare.axes", "compare.pairs", "compare.pair", "compare.baseline", "compare.report", "compare.table",
    "compare.results", "compare.published",
    "extends", "nonsense", "data.nonsense",
    "task.classes.names", "task.classes.indices", "task.classes.size", "task.classes.shift", "task.classes.order",
    "task.classes.fraction", "task.classes.seed", "task.split", "task.allow_leak", "task.episodes.validation",
    "task.episodes.seed", "task.episodes.source", "task.episodes.taskset", "task.episodes.root", "data.exif",
    "data.follow_links", "data.download", "data.unlabelled", "data.unlabelled.root", "data.unlabelled.fingerprint",
    "data.teacher_view.draws", "teacher.taps.embedding",
    "teacher.taps.embedding.path", "teacher.taps.embedding.layout", "teacher.taps.embedding.prefix_tokens",
    "teacher.taps.stages", "teacher.checkpoint_key", "student.checkpoint_key", "method.paper", "method.summary",
    "method.growth.old", "method.growth.extractor", "method.held_out", "method.sources", "optimiser.betas",
    "optimiser.final_factor", "optimiser.warmup_epochs", "optimiser.warmup_share", "optimiser.start_factor",
    "run.extend", "task.match", "teacher.image_size", "teacher.pretrained", "teacher.classes", "student.pretrained",
    "run.teacher_cache", "run.teacher_cache_precision", "data.teacher_view.interpolation", "teacher.interpolation",
    "teacher.names", "teachers", "teachers.a", "teachers.a.network", "teachers.a.checkpoint", "teachers.a.classes",
    "teachers.a.image_size", "task.generations", "student.peer", "student.peer.network", "student.peer.options",
    "student.peer.taps",
)  # fmt: skip
STAGE_KEYS = (
    "epochs", "share", "terms", "optimiser.lr", "optimiser.schedule", "train", "data", "episodes", "select", "start",
    "spots", "mixup", "nonsense", "optimiser", "images_per_class", "episodes.ways", "episodes.shots",
    "episodes.queries", "episodes.per_epoch", "mixup.images", "mixup.alpha", "mixup.weight", "mixup.per",
    "mixup.teacher", "mixup.kind", "mixup.probability", "spots.policy", "spots.classify_weight", "spots.keep",
    "spots.temperature", "spots.initial_bias",
    "spots.lr_scale", "spots.decay_scale", "unlabelled_share", "unknown_rows",
)  # fmt: skip
TERM_KEYS = (
    "loss", "weight", "scale", "rows", "at", "head", "temperature", "margin", "schedule", "samples", "nonsense",
    "power", "order", "mining", "schedule.kind", "schedule.warmup_epochs", "schedule.rate", "at.student", "at.teacher",
    "centres", "confidence", "teacher", "combine", "drop_rate", "balance", "weight.relative", "weight.batches", "where",
)  # fmt: skip
# Values that the schema allows, or nearly, each where it decides something.
_COUNTS = (1, 2, 3, 5, 12, 13, 14, 48, 1000, 10**6, 10**12, 2**63 - 1)
_RATES = (0.0, 1e-30, 1e-6, 0.5, 1.0, 50.0, 1e9, 1e30)
ODD: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            "data.batch_size", "data.per_class", "data.views", "data.images_per_class", "data.validation.per_class",
            "run.epochs", "run.seed", "evaluate.every", "evaluate.batch_size", "teacher.train.epochs",
            "teacher.train.batch_size", "task.base", "task.increment", "task.memory_per_class", "task.memory_total",
            "task.start_from", "task.novel", "task.ways", "task.shots", "task.most_shots", "task.queries", "task.tasks",
            "task.episodes.count", "task.episodes.validation", "task.size", "task.shift",
        ),
        _COUNTS,
    ),
    **dict.fromkeys(
        (
            "optimiser.lr", "optimiser.weight_decay", "optimiser.momentum", "optimiser.clip_norm", "optimiser.gamma",
            "run.checkpoint_seconds", "run.cache_gb", "data.memory_gb", "data.validation.fraction",
            "teacher.train.optimiser.lr",
        ),
        _RATES,
    ),
    "data.image_size": (1, 2, 3, 7, 16, 33, 20000),
    "data.channels": (1, 3),
    "data.augment": (
        "none", "crop", "crop-flip", "mixup", "crop+mixup", "rand-augment", "resized-crop", "cutmix", "cutmix(alpha=0)",
        "cutmix+crop", "trivial-augment", "auto-augment", "colour-jitter(hue=0.5)", "colour-jitter(hue=1)",
        "random-erasing", "random-erasing(p=1, fill=256)", "v2:ColorJitter(hue=0.5)", "v2:RandomResizedCrop(size=3)",
        "v2:CutMix", "v2:Nothing", "v2:Normalize(mean=[0], std=[1])", "v2:RandomRotation", "crop+v2:JPEG(quality=5)",
    ),
    "data.fit": ("crop", "stretch"),
    "data.rotations": (True,),
    "data.mean": ([0.0], [0.5, 0.5, 0.5], [1e30], []),
    "data.std": ([0.0], [1e-30], [1.0], [-1.0]),
    "data.teacher_view": ({"image_size": 16}, {"channels": 3}, {"augment": "none"}, {"draws": "own"}),
    "data.workers": (0, 1),
    "method": (
        "student", "kd", "dkd", "sp", "rkd", "at", "fsp", "crd", "crd_queue", "vid", "ft", "refilled", "protonet",
        "refilled_episodic", "ucir", "podnet", "der", "bic", "icarl", "joint", "mixup", "stkd", "nst", "cc",
    ),
    "method.growth": ({"new": "random"}, {"new": "imprint"}, {"extractor": "expand"}),
    "method.judge": ("ncm", "head"),
    "method.after": (["align-weights"], ["correct-bias"], []),
    "optimiser.name": ("sgd", "adamw", "RAdam", "LBFGS", "SparseAdam", "Adafactor", "Rprop"),
    "optimiser.schedule": ("constant", "cosine", "one-cycle", "multi-step"),
    "optimiser.milestones": ([], [1], [1, 1], [1000, 2], [0]),
    "student.network": ("resnet8", "resnet20", "wrn_16_1", "conv4_64", "vgg8", "MobileNetV2", "ShuffleV1", "resnet12"),
    "student.options": ({"head": "cosine"}, {"width": 2}, {"image_size": 8}, {"last_relu": False}, {"in_channels": 3}),
    "student.taps": ({"head": "fc"}, {"maps": ["conv1"]}, {"embedding": "layer3"}, {"maps": []}, {"head": "conv1"}),
    "teacher.network": ("resnet8", "resnet20", "wrn_16_2", "vgg8"),
    "teacher.expect": ("auto", "50", "100 ± 0", "0 ± 100"),
    "teacher.mean": ([0.5], [0.5, 0.5, 0.5]),
    "evaluate.metrics": (["macro_f1"], ["accuracy"], ["macro_f1", "balanced_accuracy"]),
    "run.precision": ("auto", "float32", "bf16"),
    "run.deterministic": (True,),
    "run.threads": (1, 2, 64, 10**6),
    "run.device": ("cpu", "cuda", "cuda:7", "meta", "mps", "xla"),
    "task.name": ("standard", "cross_task", "incremental", "few_shot", "middle_shot"),
    "task.order": ("natural", "1993", "0", ["ant", "bee"]),
    "task.classes": (["ant", "bee"], ["ant"], {"fraction": 0.5}, {"indices": [0, 1, 2]}, {"fraction": 0.01}),
    "task.teacher_classes": (["ant", "bee"], {"fraction": 0.5, "seed": 3}, {"size": 3}, ["ant"]),
    "task.student_classes": (["fly", "gnu"], {"fraction": 0.9}, {"indices": [7]}, ["hen", "ant"]),
    "task.aliases": ({"ant": "bee"}, {"ant": "ant"}, {"nothing": "ant"}),
    "task.steps": ([["ant"], ["bee", "cat"]], [["ant", "bee"], ["ant"]], [[]], "folders"),
    "task.selection": ("herding", "random", "closest"),
    "task.episodes.ways": ([2, 3], [9], [1]),
    "task.episodes.classifiers": (["nearest-mean", "logistic"], ["cosine"], ["svm"]),
    "task.frozen": ([], ["logistic"], ["cosine"]),
}  # fmt: skip
