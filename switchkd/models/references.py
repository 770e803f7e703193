"""Which folder a model's name means: a local one, a part of this package, or a model on the hub."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from switchkd.errors import CheckpointError


def resolve_checkpoint(name: str | Path) -> Path:
    """A local folder as it is, `asset:NAME` from this package, anything else from the model hub (or its local cache).

    Raises:
        CheckpointError: neither a folder nor a model that the hub gives out, or no part of this package.
    """
    kind, _, part = str(name).partition(":")
    if kind == "asset":
        return _asset(part)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.is_absolute() or str(name).startswith(".") or str(name).count("/") != 1:
        raise CheckpointError(f"There is no model folder {name}; give a folder, or the name of a model on the hub.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), ignore_patterns=["*.bin", "*.pt", "*.pth", "*.msgpack", "*.h5"]))
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
