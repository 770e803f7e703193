"""Which folder a model's name means: a local one, a part of this package, or a model on the hub."""

from __future__ import annotations

import importlib.util
import re
from importlib import resources
from pathlib import Path

from switchkd.errors import CheckpointError

_OTHERS = ("*.pt", "*.pth", "*.msgpack", "*.h5")  # weights of other kinds, which aren't downloaded
_ON_HUB = re.compile(r"(?P<owner>[A-Za-z0-9][\w.-]*)/[\w.-]+")


def is_reference(name: str | Path) -> bool:
    """Whether a name that is no folder's can mean a part of this package or a model on the hub.

    A path into a folder that is there (`runs/nothing`) isn't asked for on the hub, nor is anything without huggingface_hub.
    """
    if str(name).startswith("asset:"):
        return True
    match = _ON_HUB.fullmatch(str(name))
    return bool(match and not Path(match["owner"]).exists() and importlib.util.find_spec("huggingface_hub"))


def model_name(folder: Path) -> str:
    """A model's own name, where its folder is called otherwise: a link, or the hub's `models--OWNER--NAME/snapshots/HASH`."""
    if folder.parent.name == "snapshots":
        return folder.parents[1].name.rpartition("--")[2]
    return folder.resolve().name if folder.name in ("", "..") else folder.name


def resolve_checkpoint(name: str | Path, *, pickles: bool = False) -> Path:
    """A local folder as it is, `asset:NAME` from this package, anything else from the model hub (or its local cache).

    Args:
        pickles: also download .bin files, where a model on the hub has no .safetensors ones.

    Raises:
        CheckpointError: neither a folder nor a model that the hub gives out, or no part of this package.
    """
    kind, _, part = str(name).partition(":")
    if kind == "asset":
        return _asset(part)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not is_reference(name):
        raise CheckpointError(f"There is no model folder {name}; give a folder, or the name of a model on the hub.")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(name), ignore_patterns=["*.bin", *_OTHERS]))
        if pickles and not any(folder.rglob("*.safetensors")):
            folder = Path(snapshot_download(str(name), ignore_patterns=list(_OTHERS)))
        return folder
    except Exception as error:
        raise CheckpointError(
            f"'{name}' is neither a folder nor a model that could be downloaded ({type(error).__name__}); "
            "check the name and the network, or give a local folder."
        ) from error


def _asset(name: str) -> Path:
    """A checkpoint that ships with the package."""
    assets = Path(str(resources.files("switchkd") / "assets"))
    known = sorted(path.parent.name for path in assets.glob("*/config.json"))
    if name not in known:
        raise CheckpointError(f"There is no shipped part '{name}' in {assets}, only {', '.join(known) or 'none'}.")
    return assets / name
