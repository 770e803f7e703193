"""Every family that is known. Those of this package have one file each here: a file with a `FAMILY` is all that a new one needs."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar

from switchkd.architecture.family import Family

_Kind = TypeVar("_Kind", bound=Family)
_KNOWN: dict[str, Family] = {}
# What a part that is trained from nothing is where its recipe doesn't say.
NEW = {"vision": "siglip_vision_model", "language": "qwen2"}


def add_family(family: Family) -> None:
    """Makes a family known; one of the same name loses its place."""
    _KNOWN[family.name] = family


def known(kind: type[_Kind]) -> list[_Kind]:
    """The families of a kind."""
    return [family for family in _KNOWN.values() if isinstance(family, kind)]


def find(kind: type[_Kind], name: Any) -> _Kind | None:
    """The family of a name, or None where it isn't known."""
    return next((family for family in known(kind) if family.name == name), None)


for _file in iter_modules(__path__):
    _module = import_module(f"{__name__}.{_file.name}")
    if hasattr(_module, "FAMILY"):
        add_family(_module.FAMILY)
