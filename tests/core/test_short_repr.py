"""What holds arrays, networks or thousands of names prints in a line."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.network import Features
from gkd.data import ImageSet
from gkd.data.episodes import draw_episodes
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.experiment.fit import Outcome
from gkd.few_shot.evaluate import EpisodeResult
from gkd.incremental import Memory, Step, class_steps
from gkd.models import build_network
from gkd.problems.problem import Problem


def test_arrays_are_shown_by_type_and_shape_and_long_lists_are_cut(
    make_images: Callable[..., ImageSet],
) -> None:
    images = make_images(4000, 6)
    assert repr(images) == (
        "ImageSet(images=uint8 [4000, 3, 8, 8], labels=int64 [4000], space=LabelSpace(names=('c0', 'c1', 'c2', 'c3', "
        "... 2 more)), files=('c0/0000.png', 'c1/0001.png', 'c2/0002.png', 'c3/0003.png', ... 3996 more), "
        "name='random')"
    )
    assert repr(LabelSpace(["cat"])) == "LabelSpace(names=('cat',))"
    assert repr(Features(torch.zeros(2, 3), torch.zeros(2, 4), (torch.zeros(1),))) == (
        "Features(logits=float32 [2, 3], embedding=float32 [2, 4], maps=(float32 [1],))"
    )


def test_no_record_that_a_user_meets_dumps_its_content(
    make_images: Callable[..., ImageSet],
    make_teacher: Callable[..., Teacher],
    make_problem: Callable[..., Problem],
) -> None:
    images = make_images(4000, 6)
    many = LabelSpace([f"class {number}" for number in range(5000)])
    steps = class_steps(images.space, base=2, increment=2)
    teacher = make_teacher("abc")
    relation = LabelRelation(teacher.space, LabelSpace([*"abc"]))
    network = build_network("resnet8", num_classes=3)
    records = [
        many,
        Memory({name: torch.arange(500) for name in images.space}),
        Step(0, steps, images, held_out=torch.arange(1000)),
        draw_episodes(images.labels, count=500, ways=3, shots=5, queries=5, seed=0),
        EpisodeResult(50.0, 1.0, torch.rand(2000)),
        Batch(torch.zeros(64, 3, 8, 8), torch.arange(64)),
        TeacherSide(teacher, relation, centres=torch.zeros(3, 64)),
        Outcome(network, network, {"test/last": 1.0}),
        make_problem("abc", "abc"),
    ]
    for record in records:
        assert type(record).__name__ in repr(record)
        assert len(repr(record)) < 1000, type(record)
        assert "tensor(" not in repr(record)
    shown = "'c0': int64 [500], 'c1': int64 [500], 'c2': int64 [500], 'c3': int64 [500], ... 2 more}"
    assert shown in repr(records[1])
