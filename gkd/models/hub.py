"""Weight files on the Hugging Face hub, by their address ``hf://owner/name/file``."""

from __future__ import annotations

import contextlib
from pathlib import Path

from gkd.core.errors import UserError
from gkd.core.user_code import told

_PATIENCE = 5.0  # seconds for the hub's first answer
SCHEME = "hf://"
_FORM = "hf://OWNER/NAME/FILE, such as hf://timm/resnet10t.c3_in1k/model.safetensors"


def hub_file(address: str) -> Path:
    """The file of an address, from the hub's cache, or fetched into it.

    Args:
        address: ``hf://owner/name/file``; ``hf://owner/name@revision/file`` for another revision than ``main``.

    Raises:
        UserError: an address of another form, huggingface_hub not installed, or a file that cannot be fetched here.
    """
    owner, _, rest = address.removeprefix(SCHEME).partition("/")
    repository, _, file = rest.partition("/")
    repository, _, revision = repository.partition("@")
    if not (owner and repository and file):
        raise UserError(f"{address!r} is no file of the hub; its form is {_FORM}.", code="hub-address")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{address} is fetched by huggingface_hub: pip install 'gkd-torch[hub]'; or give the path of the file.",
            code="package-missing",
        ) from None
    place, version = f"{owner}/{repository}", revision or None
    cached = huggingface_hub.try_to_load_from_cache(place, file, revision=version)
    if isinstance(cached, str):
        return Path(cached)
    try:
        check_reachable(place, file, version)
        return Path(huggingface_hub.hf_hub_download(place, file, revision=version))
    except Exception as error:  # of the hub, the connection or the disk: many kinds
        raise UserError(
            f"{address} cannot be had here: {told(error)} Fetch it on a machine with a connection and give the path of "
            "the file, or bring that machine's cache here (HF_HOME).",
            code="weights-not-fetched",
        ) from error


def check_reachable(repository: str, file: str, revision: str | None = None) -> None:
    """Raise what the connection to the hub raises, where it gives no answer at all.

    huggingface_hub itself asks again and again then, for most of a minute; told to stay offline, it does not.

    Args:
        repository: ``owner/name``.
        file: of it; one that is not there is an answer.
        revision: None is the main one.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        return
    url = huggingface_hub.hf_hub_url(repository, file, revision=revision)
    with contextlib.suppress(HfHubHTTPError):
        huggingface_hub.get_hf_file_metadata(url, timeout=_PATIENCE)


def holds_files_of(repository: str) -> bool:
    """Whether the hub's cache has files of a repository, which are read where nothing answers."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = (
        Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "snapshots"
    )
    return folder.is_dir() and any(folder.iterdir())
