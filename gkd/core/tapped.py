"""Any ``nn.Module`` as a gkd network: its maps and its embedding are tapped by module path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError, unknown
from gkd.core.network import Features, StagedNetwork, Stages, as_network, in_eval_mode, through
from gkd.core.user_code import told


def as_staged(module: nn.Module, side: str) -> Any:
    """Return a module that can be cut into stages as it is, and refuse any other.

    Args:
        module: the network of a side.
        side: ``student`` or ``teacher``, for the error.

    Raises:
        UserError: the module is no ``StagedNetwork``, or was tapped without declaring stages.
    """
    declared = not isinstance(module, TappedNetwork) or module.stage_paths
    if declared and isinstance(module, StagedNetwork):
        return module
    raise UserError(
        f"The {side}'s {network_name(module)} is not cut into stages, which spot-adaptive routing needs: name them in "
        f"{side}.taps.stages, the modules that lead from one map [B, C, H, W] to the next, as in 'stages: [[conv1, "
        "bn1, act1, maxpool, layer1], [layer2], [layer3], [layer4], [global_pool]]', or use spots: always.",
        code="stages-missing",
    )


def network_name(network: nn.Module) -> str:
    """The class name of a network, or of the module that a ``TappedNetwork`` wraps."""
    return type(network.module if isinstance(network, TappedNetwork) else network).__name__


@dataclass(frozen=True)
class Shapes:
    """The shapes of a network's ``Features`` for one sample, without the batch, and of its image.

    Attributes:
        left_out: number of a map -> why its default tap gives none (``TappedNetwork.left_out``).
        pooled: of the map that is averaged into the embedding; None where there is none.
    """

    logits: tuple[int, ...]
    embedding: tuple[int, ...]
    maps: tuple[tuple[int, ...], ...]
    image: tuple[int, ...] = ()
    left_out: Mapping[int, str] = field(default_factory=dict)
    pooled: tuple[int, ...] | None = None


@torch.no_grad()
def output_shapes(network: nn.Module, image_shape: Sequence[int]) -> Shapes:
    """The shapes of a network's outputs for an image ``[C, H, W]``, from one pass in eval mode.

    The pass changes no running statistics, and every sub-module returns to its mode.

    Raises:
        UserError: the network cannot take such an image.
    """
    like = next(network.parameters())
    # A ramp: of zeros a fresh network without biases makes zeros, which say nothing of where it pools.
    images = torch.linspace(-1, 1, math.prod(image_shape), device=like.device, dtype=like.dtype)
    images = images.view(1, *image_shape)
    try:
        with in_eval_mode(network):
            features = as_network(network).features(images)
        empty = [number for number, values in enumerate(features.maps) if 0 in values.shape[2:]]
        if empty:
            raise ValueError(f"its map number {empty[0]} has no pixel")
    except UserError:
        raise
    except Exception as error:  # another library's own complaint, an assertion or a shape
        raise UserError(
            f"The {network_name(network)} cannot take images of {'×'.join(map(str, image_shape))} "
            f"(channels×height×width): {told(error)} Change data.image_size, data.channels or the network's options.",
            code="images-not-taken",
        ) from error
    return Shapes(
        tuple(features.logits.shape[1:]),
        tuple(features.embedding.shape[1:]),
        tuple(tuple(values.shape[1:]) for values in features.maps),
        tuple(image_shape),
        dict(network.left_out) if isinstance(network, TappedNetwork) else {},
        None if features.pooled_map is None else tuple(features.pooled_map.shape[1:]),
    )


@dataclass(frozen=True)
class Tap:
    """A module whose output is tapped, and the layout of that output.

    Attributes:
        path: the module's path, such as ``layer4`` or ``blocks.11``.
        layout: ``nchw`` for ``[B, C, H, W]``, ``nhwc`` for ``[B, H, W, C]``, ``tokens`` for ``[B, N, D]`` with the
            tokens of the image row by row; None reads three dimensions as tokens and four as ``nchw``.
        prefix_tokens: how many tokens (class, register, distillation) stand before those of the image; None
            takes the fewest that leave a grid of the image's proportions.
        channels: how many the map has, where a library states it; a map that has them last, and no layout, is refused.
    """

    path: str
    layout: Literal["nchw", "nhwc", "tokens"] | None = None
    prefix_tokens: int | None = None
    channels: int | None = None

    def as_map(self, values: Tensor, images: Tensor) -> Tensor:
        """The module's output ``values`` for these images, as a map ``[B, C, h, w]``.

        Raises:
            UserError: the output has another layout, or its tokens make no grid.
        """
        return _or_raise(self.map_or_reason(values, images))

    def map_or_reason(self, values: Tensor, images: Tensor) -> Tensor | UserError:
        """As ``as_map``, but the error is returned, not raised."""
        layout = self.layout or {3: "tokens", 4: "nchw"}.get(values.dim())
        if layout is None or values.dim() != (3 if layout == "tokens" else 4):
            wanted = layout or "map [B, C, H, W] and no tokens [B, N, D]"
            return UserError(
                f"The tap {self.path!r} gives {list(values.shape)}, which is no {wanted}; tap another.",
                code="not-a-map",
            )
        guessed = layout == "nchw" and self.layout is None
        if guessed and self.channels == values.shape[3] and self.channels != values.shape[1]:
            return UserError(
                f"The tap {self.path!r} gives {list(values.shape)}, whose {self.channels} channels come last; give it "
                f"a layout, as in {{path: {self.path}, layout: nhwc}}.",
                code="channels-last",
            )
        if layout == "nchw":
            return values
        if layout == "nhwc":
            return values.permute(0, 3, 1, 2)
        grid = self._grid(values.shape[1], images.shape[-2], images.shape[-1])
        if isinstance(grid, UserError):
            return grid
        return values[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)

    def _grid(self, tokens: int, height: int, width: int) -> tuple[int, int] | UserError:
        """Rows and columns of the image's tokens, in the image's proportions; an error where there are none."""
        for prefix in range(tokens) if self.prefix_tokens is None else (self.prefix_tokens,):
            rows = round(math.sqrt(max(tokens - prefix, 0) * height / width))
            columns = round(rows * width / height)
            if rows * columns == tokens - prefix > 0:
                return rows, columns
        after = "" if self.prefix_tokens is None else f" after {self.prefix_tokens} others"
        return UserError(
            f"The tap {self.path!r} gives {tokens} tokens, which make no grid of the proportions {height}:{width}"
            f"{after}; change its prefix_tokens or tap another module.",
            code="not-a-grid",
        )


def _or_raise(found: Tensor | UserError) -> Tensor:
    if isinstance(found, UserError):
        raise found
    return found


_HEAD_INPUT = "input of the head"


class TappedNetwork(nn.Module):
    """Any ``nn.Module`` as a gkd network, whose maps and embedding are outputs of modules named by path.

    The wrapped module's output is the logits. The embedding is the *input* of ``head`` unless
    ``embedding`` names a module, whose output is then used; maps and tokens are averaged over space.
    The state dict is the wrapped module's, so weights keep the names that its own library gives them.

    Args:
        module: a classifier that maps images ``[B, C, H, W]`` to logits ``[B, num_classes]``.
        head: path of the last linear layer, such as ``"fc"`` or ``"classifier.1"``.
        maps: the modules whose outputs are the activation maps, shallow to deep: paths, or a ``Tap`` where
            the layout does not follow from the number of dimensions.
        embedding: the module whose output is the embedding; None taps the head's input.
        stages: the modules to call one after the other from the images to each map and from the last map to the
            embedding, one list of paths more than ``maps``; the last may be empty: its result is flattened
            where that fits the head, else averaged over space. ``gkd.models.cut_check.check_stages`` tries
            them.
        lenient: whether a map that its tap does not give is left out, where no stages need it: the defaults of a
            network's family, which nobody may read.

    Attributes:
        left_out: number of a map that was left out in the last pass -> why; the map is then an empty tensor.

    Raises:
        UserError: a path names no sub-module, the head is no linear layer, or the stages are not one more than the
            maps, each ``[B, C, H, W]``; in a pass, a tapped module that was not called, gave no map, or whose output
            the next module overwrites in place.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        head: str,
        maps: Sequence[str | Tap] = (),
        embedding: str | Tap | None = None,
        stages: Sequence[Sequence[str]] = (),
        lenient: bool = False,
    ) -> None:
        super().__init__()
        self.module = module
        self.head_path = head
        self.maps = tuple(tap if isinstance(tap, Tap) else Tap(tap) for tap in maps)
        self.embedding = Tap(embedding) if isinstance(embedding, str) else embedding
        self.stage_paths = tuple(map(tuple, stages))
        taps = [*self.maps, *([self.embedding] if self.embedding else [])]
        modules = dict(module.named_modules())
        for path in (head, *(tap.path for tap in taps), *chain.from_iterable(self.stage_paths)):
            if path not in modules:
                raise UserError(
                    unknown("module path", path, (name for name in modules if name)),
                    code="unknown-module-path",
                )
        head_module = modules[head]
        if not isinstance(head_module, nn.Linear):
            raise UserError(
                f"The head {head!r} is a {type(head_module).__name__}; name the path of the last nn.Linear.",
                code="not-a-linear-layer",
            )
        self.num_classes = head_module.out_features
        self.embedding_dim = head_module.in_features
        if self.stage_paths:
            self._check_declared()
        self.lenient = lenient and not self.stage_paths
        self.left_out: dict[int, str] = {}
        self._pools_last: bool | None = None  # whether the last map's mean is the embedding; None: unknown
        self._keeping = False  # whether the hooks keep outputs: in ``features``, not in a stage
        self._taps: dict[str, Any] = {}
        self._versions: dict[str, int] = {}  # of the tapped tensors when they were made
        for path in dict.fromkeys(tap.path for tap in taps):
            modules[path].register_forward_hook(partial(self._keep_output, path))
        self.tap_head()

    @property
    def head(self) -> nn.Module:
        return self.module.get_submodule(self.head_path)

    def tap_head(self) -> None:
        """Tap the head's input where that is the embedding; call it again after replacing the head."""
        if self.embedding is None:
            self.head.register_forward_pre_hook(self._keep_input)

    def _check_declared(self) -> None:
        """Refuse stages of another number than the maps need, and maps of a layout that cannot be cut."""
        count, wanted = len(self.stage_paths), len(self.maps) + 1
        if count != wanted:
            raise UserError(
                f"taps.stages has {count} lists for {len(self.maps)} maps; give {wanted}: one that leads to each map, "
                "and one from the last map to the embedding, which may be empty.",
                code="wrong-number-of-stages",
            )
        for tap in self.maps:
            if tap.layout not in (None, "nchw"):
                raise UserError(
                    f"The map {tap.path!r} has the layout {tap.layout}, where only a map [B, C, H, W] can be cut; tap "
                    "other maps or drop taps.stages.",
                    code="needs-nchw-maps",
                )

    # Hooks are bound methods, so that a deep copy of the network taps itself, not the original.
    def _keep_output(self, path: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if not self._keeping:
            return
        self._taps[path] = output
        if isinstance(output, Tensor):
            self._versions[path] = _version(output)

    def _keep_input(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._keeping:
            self._taps[_HEAD_INPUT] = inputs[0]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped module's state dict; its keys have no prefix ``module.``."""
        return self.module.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}module.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, images: Tensor) -> Tensor:
        return self._logits(images)

    def features(self, images: Tensor) -> Features:
        self._keeping = True
        self.left_out.clear()
        try:
            logits = self._logits(images)
            embedding = self._embedding(images)
            maps = []
            for number, tap in enumerate(self.maps):
                values = self._tapped(tap)
                found = values if isinstance(values, UserError) else tap.map_or_reason(values, images)
                if isinstance(found, UserError) and self.lenient:
                    self.left_out[number] = str(found)
                    found = embedding.new_empty(0)
                maps.append(_or_raise(found))
            return Features(logits, embedding, tuple(maps), pooled_map=self._pooled(maps, embedding))
        finally:
            self._keeping = False
            self._taps.clear()  # keep no activation alive between calls

    def _pooled(self, maps: Sequence[Tensor], embedding: Tensor) -> Tensor | None:
        """The last map where the embedding is its mean over space, which the first pass in eval mode decides."""
        alike = bool(maps) and maps[-1].dim() == 4 and maps[-1].shape[:2] == embedding.shape
        if alike and self._pools_last is None and not (self.training or torch.compiler.is_compiling()):
            mean, whole = maps[-1].detach().mean((2, 3)), embedding.detach()
            if whole.any():  # zeros say nothing
                self._pools_last = torch.allclose(
                    mean, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max())
                )
        return maps[-1] if alike and self._pools_last else None

    def stages(self) -> Stages:
        """The declared stages (``StagedNetwork``); a UserError where none were declared."""
        if not self.stage_paths:
            raise UserError(
                f"The {network_name(self)} was tapped without stages; give TappedNetwork(..., stages=[...]).",
                code="stages-missing",
            )
        *between, last = ([self.module.get_submodule(path) for path in paths] for paths in self.stage_paths)
        return (*(partial(through, modules) for modules in between), partial(self._embed, last))

    def _embed(self, modules: Sequence[nn.Module], x: Tensor) -> Tensor:
        """The last stage, from the last map to ``[B, D]``."""
        x = through(modules, x)
        if x.dim() != 4:
            return x
        return x.flatten(1) if x.shape[1:].numel() == self.embedding_dim else x.mean(dim=(2, 3))

    def _logits(self, images: Tensor) -> Tensor:
        logits = self.module(images)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            shape = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise UserError(
                f"The {type(self.module).__name__} gives {shape} where logits [B, {self.num_classes}] are "
                "expected; gkd distils classifiers.",
                code="not-a-classifier",
            )
        return logits

    def _embedding(self, images: Tensor) -> Tensor:
        """The embedding ``[B, D]`` of this pass; maps and tokens are averaged."""
        if self.embedding is not None:
            embedding = _or_raise(self._tapped(self.embedding))
            return (
                embedding
                if embedding.dim() == 2
                else self.embedding.as_map(embedding, images).mean(dim=(2, 3))
            )
        if _HEAD_INPUT not in self._taps:
            raise UserError(
                f"The head {self.head_path!r} was not called in a forward pass, so its input, the embedding, is not "
                "known; name the module that gives it in taps.embedding (student.taps or teacher.taps).",
                code="head-not-called",
            )
        embedding = self._taps[_HEAD_INPUT]
        if embedding.dim() == 4:
            return embedding.mean(dim=(2, 3))
        return embedding.mean(dim=1) if embedding.dim() == 3 else embedding

    def _tapped(self, tap: Tap) -> Tensor | UserError:
        """The output of a tap in this pass, as its hook kept it, or the error that says why there is none."""
        if tap.path not in self._taps:
            return UserError(
                f"The tap {tap.path!r} was not called in a forward pass; tap another module.",
                code="tap-not-called",
            )
        values = self._taps[tap.path]
        if not isinstance(values, Tensor):
            return UserError(
                f"The tap {tap.path!r} gives a {type(values).__name__} and no tensor; tap another module.",
                code="not-a-tensor",
            )
        if _version(values) != self._versions[tap.path]:
            return UserError(
                f"The output of the tap {tap.path!r} is overwritten in place by a module that follows, such as an "
                "in-place ReLU; tap that one.",
                code="tap-overwritten",
            )
        return values


def _version(values: Tensor) -> int:
    """How often a tensor was written in place; 0 where torch does not count it."""
    return 0 if torch.compiler.is_compiling() or values.is_inference() else values._version
