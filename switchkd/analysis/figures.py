"""Figures on disk, and words of models and data in them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from switchkd.errors import SkdError


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure whole or not at all, in the format that the file's name tells.

    Raises:
        SkdError: it can't be written, or there is no such format.
    """
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            # A letter that the font lacks is drawn as a box.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(partial, dpi=120)
        partial.replace(path)
    except (OSError, ValueError) as error:
        raise SkdError(f"{path} can't be written: {getattr(error, 'strerror', None) or error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def caption(text: str, longest: int) -> str:
    """Text for one line of a figure: control characters and line breaks as spaces, cut where it is too long."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
