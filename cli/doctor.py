"""`skd doctor`: what is installed, what works, what to install for what."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil

import click

from switchkd.hardware.runtimes import RUNTIMES

# What each extra is for, and the packages that it stands on.
_EXTRAS = {
    "base": (
        "reading data, skd verify, install, status; exports with gguf or onnx",
        ("click", "rich", "numpy", "pillow", "tokenizers", "jinja2", "pyyaml", "securesystemslib", "cryptography"),
    ),
    "train": (
        "skd init, distill, train; checkpoints in skd eval, chat, …",
        ("torch", "transformers", "accelerate", "safetensors", "deepspeed", "filelock", "tensorboard", "matplotlib"),
    ),
    **{extra.name: (extra.purpose, tuple(extra.packages)) for each in RUNTIMES.values() for extra in each.extras},
    "serve": ("skd serve", ("starlette", "uvicorn", "prometheus-client")),
    "ship": ("skd ship", ("cyclonedx-python-lib", "packaging")),
}


@click.command("doctor", short_help="Tell what is installed and what this computer lacks.")
def doctor_command() -> None:
    """Tell what is installed here, what that is enough for, and what to install for the rest."""
    from rich.console import Console
    from rich.table import Table

    import switchkd
    from switchkd.computer import usable_processors

    console = Console()
    console.print(f"skd {switchkd.__version__}, Python {platform.python_version()}, {platform.platform()}")
    console.print(
        f"{usable_processors()} cores, {_memory()} memory, {shutil.disk_usage('.').free / 1e9:.0f} GB free here"
    )
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
    table.add_row("skd eval --suite", *_lmms_eval())
    console.print(table)
    for line in (*_processor(), _accelerator(), _llama(), _devices(), _distributed()):
        if line:
            console.print(line)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lmms_eval() -> tuple[str, str]:
    """What of it is there, and whether the suite can run; it is no extra, as its own requirements are too many."""
    from switchkd.runtime.lmms.benchmarks import LMMS_EVAL

    version = _version("lmms-eval")
    listed = f"lmms-eval {version}" if version else ""
    if version == LMMS_EVAL:
        return listed, "[green]ready"
    return listed, f"[yellow]needs lmms-eval=={LMMS_EVAL}: docs/evaluation.md tells how to install it"


def _memory() -> str:
    from switchkd.computer import memory_bytes

    size = memory_bytes()
    return f"{size / 1e9:.0f} GB" if size else "unknown"


def _processor() -> list[str]:
    """What it lacks that engines would use, and what that costs."""
    from switchkd.hardware.instructions import lacking
    from switchkd.processor import instructions

    return [f"processor: {line}" for line in lacking(instructions())]


def _accelerator() -> str:
    if _version("torch") is None:
        return ""
    import torch

    if not torch.cuda.is_available():
        return "no GPU that torch can use: training runs on the CPU"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"GPUs: {', '.join(names)}"


def _llama() -> str:
    if _version("llama-cpp-python") is None:
        return ""
    from switchkd.runtime.engines.llama.build import can_rearrange_weights, lacking_instructions, unused_instructions

    if lacking := lacking_instructions():
        needs = f"compiled for {', '.join(lacking)}, which this processor lacks"
        return f"llama.cpp: can't run here: {needs}; `make gguf` compiles one that does"
    unused = unused_instructions()
    if unused:
        return f"llama.cpp: the build leaves {', '.join(unused)} of this processor unused; `make gguf` compiles one that doesn't"
    if not can_rearrange_weights():
        return "llama.cpp: built with AMX kernels, which crash; it runs without its fastest ones, `make gguf` compiles them"
    return "llama.cpp: the build uses what this processor has"


def _devices() -> str:
    if _version("onnxruntime") is None:
        return ""
    from switchkd.runtime.engines.onnx.session import devices

    return f"--device of ONNX exports: {', '.join(devices())}"


def _distributed() -> str:
    if _version("deepspeed") is None:
        return ""
    compiler = shutil.which("g++") or shutil.which("c++")
    return "--nproc: ready" if compiler else "--nproc: DeepSpeed compiles a part of itself and finds no C++ compiler"
