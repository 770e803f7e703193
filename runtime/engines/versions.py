"""Whether what runs an export is installed here, new enough: the least versions are those that this package declares."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re

from switchkd.errors import MissingDependencyError
from switchkd.manifest import Manifest
from switchkd.runtime.engines.formats import known_formats, known_runtimes


def require_runtimes(manifest: Manifest) -> None:
    """Raises MissingDependencyError, with what to install, where a runtime of the export isn't there or is too old."""
    format, least = known_formats()[manifest.format], least_versions()
    for runtime in (known_runtimes()[name] for name in dict.fromkeys((format.vision, format.language))):
        for package, module in runtime.packages.items():
            install = (
                f"pip install --upgrade 'switchkd[{runtime.extras[0].name}]'"
                if runtime.extras
                else f"pip install --upgrade {package}"
            )
            if importlib.util.find_spec(module) is None:
                raise MissingDependencyError(f"{runtime.title} isn't installed, which runs it: {install}.")
            try:
                version = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue  # another build of it, under a name of its own
            if _numbers(version) < _numbers(least.get(package, "")):
                raise MissingDependencyError(
                    f"{runtime.title} {version} is installed, and {least[package]} is the oldest that runs it: {install}."
                )


def least_versions() -> dict[str, str]:
    """Package → the oldest version that this package declares, of those that it declares one for."""
    try:
        declared = importlib.metadata.requires("switchkd") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([A-Za-z0-9._-]+)[^;]*?>=\s*([0-9.]+)", line) for line in declared)
    return {match[1]: match[2] for match in found if match}


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, leading[0].split("."))) if leading else ()
