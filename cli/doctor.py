"""`skd doctor`: what is installed, what works, what to install for what."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil

import click

# What each extra is for, and the packages that it stands on.
_EXTRAS = {
    "base": ("reading data, running exports", ("click", "rich", "numpy", "pillow", "tokenizers", "jinja2", "pyyaml")),
    "train": ("skd init, distill, train, eval", ("torch", "transformers", "accelerate", "deepspeed", "matplotlib")),
    "gguf": ("skd export --format gguf, and running it", ("gguf", "llama-cpp-python")),
    "onnx": ("skd export --format onnx, and running it", ("onnxruntime",)),
}


@click.command("doctor")
def doctor_command() -> None:
    """Tell what is installed here, what that is enough for, and what to install for the rest."""
    from rich.console import Console
    from rich.table import Table

    import switchkd

    console = Console()
    console.print(f"skd {switchkd.__version__}, Python {platform.python_version()}, {platform.platform()}")
    console.print(f"{os.cpu_count()} cores, {_memory()} memory, {shutil.disk_usage('.').free / 1e9:.0f} GB free here")
    table = Table()
    for column in ("for", "packages", "state"):
        table.add_column(column)
    for extra, (purpose, packages) in _EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        missing = [package for package, version in versions.items() if version is None]
        listed = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
        advice = (
            f"[yellow]missing {', '.join(missing)}: pip install 'switchkd\\[{extra}]'" if missing else "[green]ready"
        )
        table.add_row(purpose, listed, advice)
    console.print(table)
    for line in (_accelerator(), _distributed()):
        if line:
            console.print(line)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    except (ValueError, OSError):
        return "unknown"


def _accelerator() -> str:
    if _version("torch") is None:
        return ""
    import torch

    if not torch.cuda.is_available():
        return "no GPU that torch can use: training runs on the CPU"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"GPUs: {', '.join(names)}"


def _distributed() -> str:
    if _version("deepspeed") is None:
        return ""
    compiler = shutil.which("g++") or shutil.which("c++")
    return "--nproc: ready" if compiler else "--nproc: DeepSpeed compiles a part of itself and finds no C++ compiler"
