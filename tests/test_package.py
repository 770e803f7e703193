"""The built wheel in an environment of its own: only the base dependencies, no torch, another working directory."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import switchkd

ROOT = Path(__file__).parents[1]
SOURCES = ("switchkd", "cli", "export", "hardware", "runtime")
# One process makes the environment for all of them.
pytestmark = [pytest.mark.xdist_group("package"), pytest.mark.long]
OPTIMUM = Path("optimum/commands/register")  # where optimum looks for others' commands
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout and nothing left there gets in."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(*PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", target, source)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of an environment that holds the wheel and its base dependencies."""
    return install(tmp_path_factory.mktemp("device"), wheel)


def install(folder: Path, *requirements: object) -> Path:
    """A new environment's folder of commands."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(*PIP, "--python", python, "install", "--quiet", "--constraint", ROOT / "constraints.txt", *requirements)
    return python.parent


def run(*command: object, status: int = 0, cwd: Path | None = None) -> str:
    """What the command prints; its exit status has to be `status`."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd)
    assert result.returncode == status, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def test_wheel_holds_every_file_of_the_package(wheel: Path):
    packed = set(zipfile.ZipFile(wheel).namelist())
    for name in SOURCES:
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                place = path.relative_to(ROOT) if name == "switchkd" else Path("switchkd") / path.relative_to(ROOT)
                if path.parent == ROOT / "cli" / "optimum":
                    place = OPTIMUM / path.name
                assert place.as_posix() in packed, f"{place} is missing from the wheel: see package-data"


def test_wheel_drops_nothing_else_into_site_packages(wheel: Path):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith(("switchkd/", "switchkd-"))}
    assert names == {f"{OPTIMUM}/skd.py"}


def test_commands_run_without_torch(device: Path, tmp_path: Path):
    assert "Usage: skd" in run(device / "skd", "--help", cwd=tmp_path)
    assert switchkd.__version__ in run(device / "skd", "--version", cwd=tmp_path)
    report = run(device / "skd", "doctor", cwd=tmp_path)
    assert "ready" in report and "switchkd[train]" in report
    absent = (
        "import importlib.util as u; print([n for n in ('torch', 'transformers', 'cli', 'export') if u.find_spec(n)])"
    )
    assert run(device / "python", "-c", absent, cwd=tmp_path).strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_every_command_explains_itself_without_torch(device: Path, tmp_path: Path):
    ask = """
import sys
from click.testing import CliRunner
from switchkd.cli.main import main
for command in main.commands:
    result = CliRunner().invoke(main, [command, "--help"], prog_name="skd")
    assert result.exit_code == 0 and f"Usage: skd {command}" in result.output, (command, result.output)
    print(command)
assert "torch" not in sys.modules
"""
    assert "distill" in run(device / "python", "-c", ask, cwd=tmp_path).split()


def test_torch_free_modules_import_without_torch(device: Path, tmp_path: Path):
    modules = (
        "switchkd",
        "switchkd.manifest",
        "switchkd.prompt",
        "switchkd.preprocess",
        "switchkd.runtime.engines.engine",
    )
    run(device / "python", "-c", f"import {', '.join(modules)}", cwd=tmp_path)


def test_training_without_torch_says_what_to_install(device: Path, tmp_path: Path):
    message = run(device / "skd", "distill", status=1, cwd=tmp_path)
    assert len(message.splitlines()) == 1
    assert "pip install 'switchkd[train]'" in message
    assert list(tmp_path.iterdir()) == []


# What an engine needs beside the package, and what it loads.
ENGINES = {
    "onnx": "from switchkd.runtime.engines.onnx.session import onnx_runtime; onnx_runtime()",
    "gguf": "from switchkd.runtime.engines.llama.library import library; library()",
}
LOADING = """
import resource, sys, time
start, work = time.perf_counter(), time.process_time()
import switchkd.runtime.engines.opening
{engine}
print(time.perf_counter() - start, time.process_time() - work, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
assert not {{"torch", "transformers"}} & set(sys.modules)
"""


def llama_wheel() -> list[Path]:
    """llama.cpp's wheel, as the Makefile finds it: it isn't compiled for this."""
    named = os.environ.get("SKD_LLAMA_WHEEL")
    return [Path(named)] if named else list((ROOT / ".cache" / "wheels").glob("llama_cpp_python-*.whl"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_the_device_side_is_small(engine: str, wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """The runtime with one engine: installed size; time and memory of loading it, medians of five fresh processes."""
    ready = llama_wheel() if engine == "gguf" else []
    if engine == "gguf" and not ready:
        pytest.skip("llama.cpp's wheel isn't there; `make gguf` compiles it")
    python = install(tmp_path / "device", f"{wheel}[{engine}]", *ready) / "python"
    (packages,) = (tmp_path / "device" / "lib").glob("python*/site-packages")
    sizes = {path.name: folder_bytes(path) / 1e6 for path in packages.iterdir()}
    loads = [run(python, "-c", LOADING.format(engine=ENGINES[engine]), cwd=tmp_path).split() for _ in range(5)]
    wall, work, memory = (statistics.median(map(float, column)) for column in zip(*loads, strict=True))
    largest = ", ".join(f"{name} {size:.0f}" for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:6])
    with capsys.disabled():
        print(f"\n{engine}: {sum(sizes.values()):.0f} MB installed ({largest}; switchkd {sizes['switchkd']:.1f})")
        print(f"{engine}: loaded in {wall:.2f} s, {work:.2f} s of them computing, with {memory:.0f} MB of memory")
    assert "torch" not in sizes and "transformers" not in sizes
    assert sum(sizes.values()) < 350 and memory < 250 and work < 10


def folder_bytes(path: Path) -> int:
    return sum(file.lstat().st_size for file in [path, *path.rglob("*")] if file.is_file() and not file.is_symlink())
