"""What lies outside this package: modules of namespace packages, which may lie anywhere on Python's path and several times."""

from __future__ import annotations

from collections.abc import Container
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType

from switchkd.errors import ExtensionError


def extension_names(folder: str) -> list[str]:
    """Names of the modules in a namespace package; none where it isn't there. Nothing is loaded."""
    spec = find_spec(folder)
    places = spec.submodule_search_locations if spec else None
    return sorted(module.name for module in iter_modules(places or ()) if not module.name.startswith("_"))


def load_extension(folder: str, name: str, attribute: str, kind: type, taken: Container[str] = ()) -> ModuleType:
    """A module that declares what it adds.

    Args:
        attribute: it has to have, of the type `kind`, with the module's name as its `name`.
        taken: names that this package has itself.

    Raises:
        ExtensionError: it can't be loaded, or doesn't declare that.
    """
    try:
        module = import_module(f"{folder}.{name}")
    except Exception as error:  # whatever a file from outside raises
        why = " ".join(repr(error).split())
        raise ExtensionError(f"{_file(folder, name)} can't be loaded: {why}.") from error
    value = getattr(module, attribute, None)
    if not isinstance(value, kind) or getattr(value, "name", None) != name or name in taken:
        raise ExtensionError(
            f"{module.__file__} has to declare {attribute}, a {kind.__name__} of the name '{name}', which isn't one of skd's own."
        )
    return module


def _file(folder: str, name: str) -> str:
    spec = find_spec(f"{folder}.{name}")
    return str(spec.origin) if spec else f"{folder}/{name}.py"
