"""The shipped methods of incremental learning: what their files add up to on one batch, against their papers' sums.

Two networks hand over given numbers: three old classes, two new ones. A distillation term is the paper's, without T²,
but for the teacher's entropy, which is constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gkd.config.shipped import shipped_methods
from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.network import Features
from gkd.distill.distiller import Distiller
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.incremental.learn import without_teacher
from gkd.models import CosineHead, ProxyHead
from tests.losses.waves import wave

OLD, ALL = LabelSpace([*"abc"]), LabelSpace([*"abcde"])
LABELS = [0, 3, 4, 1, 3, 4]
ROWS = range(len(LABELS))
NEW = [i for i in ROWS if LABELS[i] >= 3]
METHODS = shipped_methods()


class Given(nn.Module):
    """A network whose embedding and maps are given numbers; its head is a real one."""

    def __init__(self, head: nn.Module, phase: float) -> None:
        super().__init__()
        self.head = head.double()
        with torch.no_grad():
            for number, parameter in enumerate(self.head.parameters()):
                if parameter.dim():
                    parameter.copy_(2 * wave(*parameter.shape, phase=phase + 0.1 * number))
                else:
                    parameter.fill_(3.0)  # η
        self.num_classes, self.embedding_dim = len(head.weight), 4  # type: ignore[arg-type]
        self.embedding = nn.Parameter(wave(len(LABELS), 4, phase=phase))
        self.maps = tuple(wave(len(LABELS), 2, 4 // 2**i, 3, phase=phase + i) for i in range(4))

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).logits

    def features(self, images: Tensor) -> Features:
        return Features(self.head(self.embedding), self.embedding, self.maps)


def networks(head: Callable[[int, int], nn.Module]) -> tuple[Given, Given]:
    """The student over five classes, and the old network over three."""
    return Given(head(4, 5), 0.3), Given(head(4, 3), 0.8)


def linear() -> tuple[Given, Given]:
    return networks(nn.Linear)


def total(name: str, student: Given, old: Given, stage: str = "distil") -> Tensor:
    """The loss of a shipped method's stage."""
    images = torch.zeros(len(LABELS), 1, 2, 2)
    batch = Batch(images, torch.tensor(LABELS), torch.arange(len(LABELS)))
    teacher = Teacher(old, OLD, mean=(0.5,), std=(0.25,))
    terms = METHODS[name].stages[stage].terms
    distiller = Distiller(student, TeacherSide(teacher, LabelRelation(OLD, ALL), rows="all"), terms)
    loss: Tensor = distiller(batch)["loss"]
    return loss


def cross_entropy(z: list[float], column: int) -> float:
    return math.log(sum(math.exp(value) for value in z)) - z[column]


def kl(student: list[float], teacher: list[float], temperature: float = 1.0) -> float:
    """KL(teacher‖student) of softmaxes at a temperature, without its square."""
    p, q = (
        [math.exp(v / temperature) / sum(math.exp(w / temperature) for w in z) for v in z]
        for z in (teacher, student)
    )
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def responses(student: Given, old: Given) -> tuple[list[list[float]], float, float]:
    """The student's logits, the cross-entropy over all classes, and the old classes' KL at T = 2."""
    z, z_old = student.head(student.embedding).tolist(), old.head(old.embedding).tolist()
    return (
        z,
        mean([cross_entropy(z[i], LABELS[i]) for i in ROWS]),
        mean([kl(z[i][:3], z_old[i], 2.0) for i in ROWS]),
    )


@pytest.mark.parametrize("name", ["replay", "joint"])
def test_bounds_are_the_cross_entropy(name: str) -> None:
    student, old = linear()
    assert total(name, student, old, "train").item() == pytest.approx(responses(student, old)[1])


def test_finetune_and_lwf_ask_among_the_new_classes() -> None:
    """PyCIL: CE of the new columns, for LwF + 3 KD_2 of the old ones."""
    student, old = linear()
    z, _, old_kl = responses(student, old)
    new = mean([cross_entropy(z[i][3:], LABELS[i] - 3) for i in NEW])
    assert total("finetune", student, old, "train").item() == pytest.approx(new)
    assert total("lwf", student, old).item() == pytest.approx(new + 3 * old_kl)
    assert {METHODS["lwf"].stages["distil"].data, METHODS["finetune"].stages["train"].data} == {"new"}


def test_icarl_is_the_mean_of_a_hundred_questions() -> None:
    student, old = linear()
    z, z_old = student.head(student.embedding).tolist(), old.head(old.embedding).tolist()
    rows = []
    for i in ROWS:
        yes = [1 / (1 + math.exp(-value)) for value in z[i]]
        before = [1 / (1 + math.exp(-value)) for value in z_old[i]]
        new = [-math.log(yes[c] if c == LABELS[i] else 1 - yes[c]) for c in (3, 4)]
        kept = [
            b * math.log(b / y) + (1 - b) * math.log((1 - b) / (1 - y))
            for b, y in zip(before, yes[:3], strict=True)
        ]
        rows.append(sum(new) + sum(kept))
    assert total("icarl", student, old).item() == pytest.approx(mean(rows) / 100)
    assert METHODS["icarl"].judge == "ncm"


@pytest.mark.parametrize("name", ["icarl_softmax", "eeil"])
def test_cross_entropy_and_softened_old_logits(name: str) -> None:
    student, old = linear()
    _, ce, old_kl = responses(student, old)
    assert total(name, student, old).item() == pytest.approx(ce + old_kl)
    if name == "eeil":
        assert total(name, student, old, "balance").item() == pytest.approx(ce + old_kl)
        assert METHODS[name].stages["balance"].data == "balanced-memory"


@pytest.mark.parametrize(("name", "rule"), [("bic", "fit-bias"), ("wa", "align-weights")])
def test_bic_and_wa_weigh_by_the_share_of_old_classes(name: str, rule: str) -> None:
    """(1 − λ) CE + λ KD_2 with λ = 3 / 5; the softmax is over classes, so no other image of the batch counts."""
    student, old = linear()
    _, ce, old_kl = responses(student, old)
    assert total(name, student, old).item() == pytest.approx(0.4 * ce + 0.6 * old_kl)
    assert METHODS[name].after == (rule,)


def cosines(head: nn.Module, embedding: Tensor) -> list[list[float]]:
    """Plain cosines of a `CosineHead`."""
    return torch.cosine_similarity(embedding[:, None], head.weight[None], dim=2).tolist()  # type: ignore[index, operator]


def away(student: Given, old: Given) -> float:
    return mean((1 - torch.cosine_similarity(student.embedding, old.embedding)).tolist())


def test_ucir_is_three_sums() -> None:
    """CE(η cos) + 5 √(3/2) (1 − cos) + the mean of two margins a row of an old class."""
    student, old = networks(CosineHead)
    s = cosines(student.head, student.embedding)
    ce = mean([cross_entropy([3 * value for value in s[i]], LABELS[i]) for i in ROWS])
    apart = [max(0.0, 0.5 - s[i][LABELS[i]] + s[i][k]) for i in ROWS if LABELS[i] < 3 for k in (3, 4)]
    assert any(apart)
    expected = ce + 5 * math.sqrt(3 / 2) * away(student, old) + mean(apart)
    assert total("ucir", student, old).item() == pytest.approx(expected)
    assert (METHODS["ucir"].growth.new, METHODS["ucir"].growth.old) == ("imprint", "frozen")


def pooled(maps: Tensor) -> list[float]:
    """Of one image: squares summed over the width, then over the height, at unit length."""
    squares = (maps**2).tolist()
    parts = [sum(row) for channel in squares for row in channel]
    parts += [sum(column) for channel in squares for column in zip(*channel, strict=True)]
    length = math.sqrt(sum(part * part for part in parts))
    return [part / length for part in parts]


def test_podnet_is_three_sums_and_the_first_alone_when_balanced() -> None:
    """NCA + √(5/2) [3 · the mean over the three stages' maps of POD-spatial + POD-flat]."""
    student, old = networks(lambda width, classes: ProxyHead(width, classes, num_proxies=2))
    weight = student.head.weight.detach()  # type: ignore[operator, union-attr]
    s = []
    for row in student.embedding.detach():
        each = [[float(torch.cosine_similarity(row, proxy, 0)) for proxy in own] for own in weight]
        s.append([sum(math.exp(c) * c for c in own) / sum(math.exp(c) for c in own) for own in each])
    nca = mean(
        [
            max(
                0.0,
                math.log(sum(math.exp(3 * s[i][c]) for c in range(5) if c != LABELS[i]))
                - 3 * (s[i][LABELS[i]] - 0.6),
            )
            for i in ROWS
        ]
    )
    spatial = [
        mean([math.dist(pooled(ours[i]), pooled(theirs[i])) for i in ROWS])
        for ours, theirs in zip(student.maps[1:], old.maps[1:], strict=True)
    ]
    assert nca > 0
    expected = nca + math.sqrt(5 / 2) * (3 * mean(spatial) + away(student, old))
    assert total("podnet", student, old).item() == pytest.approx(expected)
    assert total("podnet", student, old, "balance").item() == pytest.approx(nca)
    balance = METHODS["podnet"].stages["balance"]
    assert (balance.data, balance.train) == ("balanced-memory", ("head",))


def test_ird_is_the_cross_entropy_and_the_relations_to_the_others() -> None:
    student, old = linear()

    def near(rows: Tensor, i: int, temperature: float) -> list[float]:
        return [torch.cosine_similarity(rows[i], rows[j], 0).item() / temperature for j in ROWS if j != i]

    relations = [kl(near(student.embedding, i, 0.2), near(old.embedding, i, 0.01)) for i in ROWS]
    expected = responses(student, old)[1] + mean(relations)
    assert total("ird", student, old).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["lwf", "icarl", "bic", "wa", "ucir", "podnet", "eeil"])
def test_where_nothing_is_old_the_label_term_stays_with_its_whole_weight(name: str) -> None:
    """The first step: λ = 0 leaves 1 − λ = 1, and every scale by old classes has gone with its term."""
    (stage,) = without_teacher(METHODS[name]).stages.values()
    head = {"ucir": CosineHead, "podnet": ProxyHead}.get(name, nn.Linear)
    student = Given(head(4, 5), 0.3)
    batch = Batch(torch.zeros(len(LABELS), 1, 2, 2), torch.tensor(LABELS), torch.arange(len(LABELS)))
    losses = Distiller(student, None, stage.terms)(batch)
    term, *others = (key for key in losses if key.startswith("loss/"))
    assert all(losses[other] == 0 for other in others), "UCIR's margin, of old classes alone"
    weight = 0.01 if name == "icarl" else 1.0
    assert losses["loss"].item() == pytest.approx(weight * losses[term].item())
    assert losses["loss"].item() > 0
    assert stage.data != "balanced-memory"
