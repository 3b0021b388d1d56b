"""Heads, which map an embedding to logits: their kinds, and how they grow by classes.

A head is a module ``[B, D] -> [B, C]`` with ``in_features`` D and ``out_features`` C. The cosine kinds also have
``cosines`` (their class scores before the scale) and ``scale``, which losses may read.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError, unknown
from gkd.core.numerics import unit_rows
from gkd.core.tapped import TappedNetwork

HeadKind = Literal["linear", "cosine", "proxy"]
HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)


class CosineHead(nn.Module):
    """Logits are scaled cosines: ``z_k = η · cos(h, w_k)``, so that no class wins by the length of its weights.

    Shapes: ``[B, D] -> [B, C]``. A zero embedding has the logits 0.

    Args:
        in_features: D.
        out_features: C.
        num_frozen: the first rows of the weight that get no gradient: UCIR's old classes. Weight decay still changes
            their lengths, but not what they give. It is no part of the state dict.

    Attributes:
        weight: ``[C, D]``, drawn from U(−1/√D, 1/√D); only the directions of its rows count.
        scale: 0-dim, η, learnt from 1.

    Paper:
        Hou, Pan, Loy, Wang, Lin: Learning a Unified Classifier Incrementally via Rebalancing, CVPR 2019, section 3.2.
    """

    def __init__(self, in_features: int, out_features: int, *, num_frozen: int = 0) -> None:
        super().__init__()
        _check_sizes(in_features=in_features, out_features=out_features)
        self.in_features, self.out_features, self.num_frozen = in_features, out_features, num_frozen
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.ones(()))

    def cosines(self, embedding: Tensor) -> Tensor:
        """``[B, C]`` in [−1, 1]: the logits before the scale."""
        weight: Tensor = self.weight
        if self.num_frozen:
            weight = torch.cat([weight[: self.num_frozen].detach(), weight[self.num_frozen :]])
        return F.linear(unit_rows(embedding.to(weight.dtype)), unit_rows(weight))

    def forward(self, embedding: Tensor) -> Tensor:
        return self.scale * self.cosines(embedding)


class ProxyHead(nn.Module):
    """Local similarity: a class is several proxies, and its score their cosines, weighted by a softmax over them.

    ``z_k = η · Σ_p a_kp c_kp`` with ``c_kp = cos(h, w_kp)`` and ``a_k = softmax_p(c_k)``.

    Shapes: ``[B, D] -> [B, C]``.

    Args:
        in_features: D.
        out_features: C.
        num_proxies: P, the proxies of a class.

    Attributes:
        weight: ``[C, P, D]``, Kaiming-normal over D; only the directions of the proxies count.
        scale: 0-dim, η, learnt from 1.

    Paper:
        Douillard, Cord, Ollion, Robert, Valle: PODNet, ECCV 2020, local similarity classifier.
    """

    def __init__(self, in_features: int, out_features: int, *, num_proxies: int = 10) -> None:
        super().__init__()
        _check_sizes(in_features=in_features, out_features=out_features, num_proxies=num_proxies)
        self.in_features, self.out_features, self.num_proxies = in_features, out_features, num_proxies
        self.weight = nn.Parameter(
            torch.randn(out_features, num_proxies, in_features) / math.sqrt(in_features)
        )
        self.scale = nn.Parameter(torch.ones(()))

    def cosines(self, embedding: Tensor) -> Tensor:
        """``[B, C]`` in [−1, 1]: the logits before the scale."""
        proxies = unit_rows(self.weight.flatten(0, 1))
        each = F.linear(unit_rows(embedding.to(proxies.dtype)), proxies).unflatten(1, self.weight.shape[:2])
        return (each.softmax(2) * each).sum(2)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.scale * self.cosines(embedding)


Head = nn.Linear | CosineHead | ProxyHead


def new_head(kind: HeadKind, in_features: int, num_classes: int) -> Head:
    """A freshly initialised head.

    Raises:
        UserError: an unknown kind, or a size below 1.
    """
    check_head_kind(kind)
    if kind == "cosine":
        return CosineHead(in_features, num_classes)
    if kind == "proxy":
        return ProxyHead(in_features, num_classes)
    return nn.Linear(in_features, num_classes)


def check_head_kind(kind: Any) -> None:
    """Raise a UserError for an unknown kind of head."""
    if kind not in HEAD_KINDS:
        raise UserError(unknown("head", str(kind), HEAD_KINDS), code="unknown-head")


@torch.no_grad()
def grow(
    head: nn.Module,
    num_new: int,
    *,
    init: Literal["random", "imprint"] = "random",
    means: Tensor | None = None,
) -> Head:
    """A copy of a head with new classes after the old ones, whose rows, and so whose logits, stay the same.

    Args:
        head: an ``nn.Linear``, `CosineHead` or `ProxyHead`; it is not changed.
        num_new: the classes to add.
        init: ``random`` draws the new rows as a fresh head does; ``imprint`` points them at ``means``, as long as the
            old rows are on average, with a bias of 0.
        means: with ``imprint`` the mean embedding of each new class ``[num_new, D]``, or for a `ProxyHead`
            ``[num_new, P, D]`` (`class_proxies`: equal proxies would stay equal for good).

    Returns:
        A new head of the same kind, device and dtype. A `CosineHead` has as many frozen rows as before.

    Raises:
        UserError: another kind of head, or means that do not fit or are zero.

    Paper:
        Imprinting: Qi, Brown, Lowe: Low-Shot Learning with Imprinted Weights, CVPR 2018; scaled by the mean norm of
        the old weights as in hshustc/CVPR19_Incremental_Learning.
    """
    if not isinstance(head, Head):
        raise UserError(
            f"A {type(head).__name__} is no head that can grow; "
            "use a network whose head is linear, cosine or proxy.",
            code="not-a-head",
        )
    _check_sizes(num_new=num_new)
    num_old, rows = head.out_features, means
    shape = (num_new, *head.weight.shape[1:])
    if init == "imprint":
        if means is None or means.shape != shape:
            shown = "none" if means is None else str(list(means.shape))
            raise UserError(
                f"Imprinting needs means of {list(shape)}, one a new class; {shown} were given.",
                code="other-shapes",
            )
        length = torch.linalg.vector_norm(head.weight, dim=-1).mean()
        units = unit_rows(means.to(head.weight).flatten(0, -2))
        if not units.any(1).all():
            raise UserError(
                "Imprinting needs a direction for every new class, but a mean is zero; "
                "give each class images.",
                code="zero-mean",
            )
        rows = length * units.view(shape)
    grown = _sized(head, num_old + num_new).to(head.weight)
    for name, parameter in grown.named_parameters():
        old = head.get_parameter(name)
        parameter.requires_grad_(old.requires_grad)
        old_rows = parameter[: len(old)] if old.dim() else parameter
        old_rows.copy_(old)
    if init == "imprint":
        assert rows is not None
        grown.weight[num_old:] = rows
        if isinstance(grown, nn.Linear) and grown.bias is not None:
            grown.bias[num_old:] = 0
    return grown


def _sized(head: Head, num_classes: int) -> Head:
    """A fresh head like this one, of another number of classes."""
    if isinstance(head, CosineHead):
        return CosineHead(head.in_features, num_classes, num_frozen=head.num_frozen)
    if isinstance(head, ProxyHead):
        return ProxyHead(head.in_features, num_classes, num_proxies=head.num_proxies)
    return nn.Linear(head.in_features, num_classes, bias=head.bias is not None)


def put_head(network: nn.Module, head: Head) -> None:
    """Put a head in the place of the network's, under the same name, and update ``num_classes``.

    Args:
        network: a gkd network or a tapped one; it is changed.
        head: reads embeddings of the network's width.

    Raises:
        UserError: a head for another width, or a network whose head is none of its modules.
    """
    old: Any = network.head
    if head.in_features != old.in_features:
        raise UserError(
            f"The head reads embeddings of {head.in_features} entries, the network's have {old.in_features}; build it "
            "for the network's embedding_dim.",
            code="other-embedding-dim",
        )
    set_head(network, head)
    network.num_classes = head.out_features  # type: ignore[assignment]


def set_head(network: nn.Module, module: nn.Module) -> None:
    """Put any module in the place of a network's head, under the same name.

    Raises:
        UserError: a network whose head is none of its modules.
    """
    root: Any = network.module if isinstance(network, TappedNetwork) else network
    paths = [path for path, part in root.named_modules() if part is network.head]
    if not paths:
        raise UserError(
            f"The head of a {type(root).__name__} is none of its modules, so it cannot be replaced.",
            code="not-a-module",
        )
    parent, _, name = paths[0].rpartition(".")
    setattr(root.get_submodule(parent), name, module)
    if isinstance(network, TappedNetwork):
        network.tap_head()


def replace_head(network: nn.Module, kind: HeadKind) -> None:
    """Give a network a freshly initialised head of a kind, for the same classes and under the same name.

    Raises:
        UserError: an unknown kind, or a network whose head is none of its modules.
    """
    old: Any = network.head
    put_head(network, new_head(kind, old.in_features, old.out_features).to(old.weight))


def grow_head(
    network: nn.Module,
    num_new: int,
    *,
    init: Literal["random", "imprint"] = "random",
    means: Tensor | None = None,
) -> None:
    """Extend a network's head by ``num_new`` classes (`grow`, `put_head`); its old logits stay the same."""
    head: Any = network.head
    put_head(network, grow(head, num_new, init=init, means=means))


def class_proxies(embedding: Tensor, *, num_proxies: int = 10, seed: int = 0) -> Tensor:
    """Proxies of one class: centres of k-means over its unit-length embeddings, for `grow` with ``imprint``.

    Args:
        embedding: ``[N, D]`` of the class's images, N of ``num_proxies`` or more.
        num_proxies: P.
        seed: of the k-means' start.

    Returns:
        ``[P, D]``, of the embedding's dtype and device.

    Raises:
        UserError: fewer images than proxies.

    Paper:
        PODNet, ECCV 2020 (weights of a new class by k-means over its features).
    """
    from sklearn.cluster import KMeans  # slow to import

    if len(embedding) < num_proxies:
        raise UserError(
            f"A class of {len(embedding)} images has no {num_proxies} proxies; "
            "use init='random', or a head with fewer.",
            code="too-few-images",
        )
    rows = unit_rows(embedding.detach().float()).cpu().numpy()
    centres = KMeans(num_proxies, n_init=10, random_state=seed).fit(rows).cluster_centers_
    return torch.from_numpy(centres).to(embedding)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise UserError(
                f"{name}={size} is below 1; a head has that many or more.", code="size-out-of-range"
            )
