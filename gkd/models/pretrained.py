"""Networks with the weights that their library publishes, and what it says of them.

The library itself finds, fetches, caches and adapts its weights; gkd takes the state dict that comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from gkd.core.errors import UserError, unknown
from gkd.core.user_code import told
from gkd.models.clip import clip_config, open_clip, whole_clip
from gkd.models.external import TORCHVISION_DEFAULTS, change_in_channels, check_external_name, made_for_size
from gkd.models.hub import check_reachable, holds_files_of
from gkd.storage.weight_sets import WeightFile

# As timm calls the sets whose classes it names: by WordNet's ids, in the order of the columns.
LABEL_SETS = ("imagenet-1k", "imagenet-12k", "imagenet-21k-goog", "imagenet-21k-miil", "imagenet-22k")


@dataclass(frozen=True)
class Description:
    """What a library says of a set of weights; None where it says nothing.

    Attributes:
        network: the network's name in gkd, such as ``timm/resnet18``.
        weights: the name of the set, such as ``IMAGENET1K_V1`` or ``a1_in1k``.
        mean, std: of the input, one number a channel, in [0, 1] pixel units.
        image_size: side of the images in pixels.
        interpolation: by which images are brought to that size.
        label_set: one of ``LABEL_SETS``; None where its columns are no classes or of a set that has no name.
        num_classes: columns of its head; 0 where it has none.
        licence: of the weights.
        source: where they are fetched from.
        options: of the network, without which the weights are another function.
        on_hub: the repository and file on the Hugging Face hub from which they are fetched; None where they are not.
    """

    network: str
    weights: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    interpolation: str
    label_set: str | None
    num_classes: int
    licence: str | None
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    on_hub: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.network} {self.weights}"

    def origin(self) -> str:
        """The weights with their licence and where they are from, for results."""
        return f"{self}, licence {self.licence or 'not stated'}, from {self.source}"


def label_set(name: str) -> tuple[str, ...]:
    """The names of the classes of a label set: WordNet's ids, such as ``n01440764``, in the order of the columns.

    Raises:
        UserError: an unknown set, or timm, which brings them, is not installed.
    """
    if name not in LABEL_SETS:
        raise UserError(unknown("label set", name, LABEL_SETS), code="unknown-label-set")
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        raise UserError(
            f"The names of the classes of {name} come with timm: pip install 'gkd-torch[timm]', or give their list in "
            "teacher.classes.",
            code="package-missing",
        ) from None
    return tuple(ImageNetInfo(name).label_names())


def describe(network: str, which: bool | str = True) -> Description:
    """What the library says of the weights of one of its networks, without fetching them.

    Args:
        network: ``timm/NAME`` or ``torchvision/NAME``.
        which: the name of the set (a tag of timm's, a weight enum's member); True takes the library's default.

    Raises:
        UserError: a network of no library, one without weights, or weights that the library does not have.
    """
    library, _, name = network.partition("/")
    if library == "timm":
        return _of_timm(network, name, which)
    if library == "torchvision":
        return _of_torchvision(network, name, which)
    if library == "open_clip":
        return _of_open_clip(network, name, which)
    raise UserError(
        f"The network {network!r} comes without weights: those of a library are timm/NAME, torchvision/NAME and "
        "open_clip/NAME; give checkpoint=FILE instead of pretrained.",
        code="no-pretrained-weights",
    )


def described_as_built(network: str) -> Description | None:
    """What the library says of the weights that it would take by default; None of any other network."""
    try:
        return describe(network)
    except UserError:
        return None


def pretrained_file(
    description: Description, *, in_channels: int = 3, options: Mapping[str, Any] | None = None
) -> WeightFile:
    """The weights of a description, fetched where the library's cache has not got them.

    The library adapts them to the channels and to options such as timm's ``img_size``.

    Args:
        description: of ``describe``.
        in_channels: channels of the images.
        options: further keywords of the network's factory, which takes them (``build_network`` says so).

    Raises:
        UserError: weights that cannot be fetched here.
    """
    try:
        if description.on_hub is not None and not holds_files_of(description.on_hub[0]):
            check_reachable(*description.on_hub)
        module = _with_weights(description, in_channels, options or {})
    except UserError:
        raise
    except Exception as error:  # of the hub, the disk or a damaged download: many kinds
        raise UserError(
            f"The weights of {description} cannot be had here: {told(error)} Fetch {description.source} on a machine "
            "with a connection and give that file as checkpoint=FILE instead of pretrained, or bring that machine's "
            "cache here (HF_HOME of timm and open_clip, TORCH_HOME of torchvision).",
            code="weights-not-fetched",
        ) from error
    tensors = {key: tensor.detach().cpu() for key, tensor in module.state_dict().items()}
    return WeightFile(Path(str(description)), {}, {"": tensors}, "", given_as="pretrained")


def _with_weights(description: Description, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    """The library's network with its own head and the weights."""
    library, _, name = description.network.partition("/")
    module: nn.Module
    if library == "timm":
        import timm

        tagged = ".".join(filter(None, [name.partition(".")[0], description.weights]))
        module = timm.create_model(tagged, pretrained=True, in_chans=in_channels, **options)
        return module
    if library == "open_clip":
        # The tower alone, under its name in the whole.
        tower = nn.ModuleDict(
            {"visual": whole_clip(description.network, description.weights, options).visual}
        )
        if in_channels != 3:
            change_in_channels(tower, in_channels, description.network)
        return tower
    from torchvision.models import get_model
    from torchvision.models.vision_transformer import interpolate_embeddings

    # Some refuse the weights of the auxiliary heads that they are built without.
    more = {key: value for key, value in TORCHVISION_DEFAULTS.get(name, {}).items() if key != "aux_logits"}
    side = options.get("image_size") if name.startswith("vit_") else None
    others = {key: value for key, value in options.items() if key != "image_size"}
    module = get_model(name, weights=description.weights, **{**more, **(options if side is None else others)})
    if side is not None:  # torchvision itself takes the weights at their own size alone
        state = interpolate_embeddings(side, int(module.patch_size), module.state_dict())  # type: ignore[arg-type]
        module = get_model(name, weights=None, num_classes=description.num_classes, **{**more, **options})
        module.load_state_dict(state)
    if in_channels != 3:
        change_in_channels(module, in_channels, description.network)
    return module


def _of_timm(network: str, name: str, which: bool | str) -> Description:
    check_external_name(network)
    import timm
    from timm.data import infer_imagenet_subset

    arch, _, tag = name.partition(".")
    if isinstance(which, str) and tag not in ("", which):
        raise UserError(
            f"{network} names the weights {tag!r}, and pretrained names {which!r}; drop one of them.",
            code="weights-twice",
        )
    tag = which if isinstance(which, str) and which != "DEFAULT" else tag
    known = [each.partition(".")[2] for each in timm.list_pretrained(f"{arch}.*")]
    if tag and tag not in known:
        raise UserError(_no_such_weights(network, tag, known), code="unknown-weights")
    config = timm.models.get_pretrained_cfg(f"{arch}.{tag}" if tag else arch)
    if config is None or not config.has_weights:
        raise UserError(_no_such_weights(network, tag or "its default", known), code="unknown-weights")
    on_hub = (config.hf_hub_id, "model.safetensors") if config.hf_hub_id else None
    subset = infer_imagenet_subset(config) if config.num_classes else None
    return Description(
        network=network,
        weights=config.tag or "",
        mean=tuple(config.mean),
        std=tuple(config.std),
        image_size=config.input_size[-1],
        interpolation=config.interpolation,
        label_set=subset if subset in LABEL_SETS else None,
        num_classes=config.num_classes,
        licence=config.license,
        source=_page(on_hub) or str(config.url or ""),
        on_hub=on_hub,
    )


def _of_torchvision(network: str, name: str, which: bool | str) -> Description:
    check_external_name(network)
    from torchvision.models import get_model_weights

    members: Any = get_model_weights(name)
    known = [member.name for member in members]
    wanted = "DEFAULT" if which is True else str(which).rpartition(".")[2]
    if wanted not in {*known, "DEFAULT"} or not known:
        raise UserError(_no_such_weights(network, wanted, known), code="unknown-weights")
    weights = members[wanted]
    steps = weights.transforms()
    count = len(weights.meta.get("categories", ()))
    return Description(
        network=network,
        weights=weights.name,
        mean=tuple(steps.mean),
        std=tuple(steps.std),
        image_size=steps.crop_size[0],
        interpolation=steps.interpolation.value,
        label_set="imagenet-1k" if count == 1000 else None,
        num_classes=count,
        licence=weights.meta.get("license"),
        source=weights.url,
    )


def _of_open_clip(network: str, name: str, which: bool | str) -> Description:
    check_external_name(network)
    package = open_clip(network)
    known = list(package.list_pretrained_tags_by_model(name))
    wanted = known[0] if known and which in (True, "DEFAULT") else str(which)
    if wanted not in known:
        raise UserError(_no_such_weights(network, wanted, known), code="unknown-weights")
    config = package.get_pretrained_cfg(name, wanted)
    hub, _, file = str(config.get("hf_hub") or "").rpartition("/")
    on_hub = (hub, file or "open_clip_model.safetensors") if hub else None
    gelu = bool(config.get("quick_gelu", False)) and not clip_config(network).get("quick_gelu", False)
    return Description(
        network=network,
        weights=wanted,
        mean=tuple(config.get("mean") or package.OPENAI_DATASET_MEAN),
        std=tuple(config.get("std") or package.OPENAI_DATASET_STD),
        image_size=made_for_size(network) or 224,
        interpolation=str(config.get("interpolation") or "bicubic"),
        label_set=None,
        num_classes=0,
        licence=None,
        source=_page(on_hub) or str(config.get("url") or ""),
        options={"quick_gelu": True} if gelu else {},
        on_hub=on_hub,
    )


def _page(on_hub: tuple[str, str] | None) -> str:
    """The address of a file on the hub; empty without one."""
    return "https://huggingface.co/{}/blob/main/{}".format(*on_hub) if on_hub is not None else ""


def _no_such_weights(network: str, wanted: str, known: Sequence[str]) -> str:
    if not known:
        return f"The library has no weights for {network}; give checkpoint=FILE instead of pretrained."
    return (
        f"{unknown('weights', wanted, known)} They are those of {network}; pretrained=true takes the default."
    )
