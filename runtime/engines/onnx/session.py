"""ONNX Runtime itself: a loaded graph, its threads, its runs and its errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from switchkd.computer import return_freed_memory
from switchkd.errors import MissingDependencyError, SkdError
from switchkd.runtime.engines.interfaces import CPU
from switchkd.runtime.engines.pinning import places

STOPPED = "ONNX Runtime couldn't go on"
# Execution providers with a memory of their own. What is bound from the computer's memory is copied there once, when it is
# bound: a cache that grows in place would stay as it was.
_APART = ("cuda", "tensorrt", "nvtensorrtrtx", "rocm", "migraphx", "dml", "cann", "webgpu", "azure")
_FATAL = 4  # log level: errors come as exceptions


def onnx_runtime() -> ModuleType:
    """The `onnxruntime` package. Raises MissingDependencyError where it isn't installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "Running an ONNX export needs ONNX Runtime: pip install 'switchkd[onnx]'."
        ) from error
    return onnxruntime


def devices() -> dict[str, str]:
    """What exports can run on here: device → its execution provider's name."""
    providers = onnx_runtime().get_available_providers()
    named = {name.removesuffix("ExecutionProvider").lower(): name for name in providers}
    return {device: name for device, name in named.items() if device not in _APART}


def bind(method: Any, name: str, array: NDArray[Any]) -> None:
    """Binds an array's memory, which its owner keeps alive and in one piece, by a binding's `bind_input` or `bind_output`."""
    method(name, CPU, 0, array.dtype.type, array.shape, array.ctypes.data)


def open_session(path: Path, threads: int, device: str, *, one_shape: bool = False) -> Any:
    """A loaded graph.

    Args:
        path: the .onnx file.
        threads: processor threads.
        device: one of `devices`.
        one_shape: every call's inputs have the same shape: its memory is planned once, and given back after each call.

    Raises:
        SkdError: ONNX Runtime can't read the file, or hasn't got the device.
        MissingDependencyError: onnxruntime isn't installed.
    """
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    options.enable_cpu_mem_arena = not one_shape
    options.enable_mem_pattern = one_shape
    # Waiting threads spin while a graph runs, and leave the processor to the next graph when it ends.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    place_helpers(options, threads)
    provider = _provider(device)
    providers = [provider] if device == CPU else [provider, "CPUExecutionProvider"]
    with one_line(f"ONNX Runtime can't read {path}"):
        session = runtime.InferenceSession(str(path), options, providers=providers)
    return_freed_memory()  # as much as a third of the graph's size
    if provider not in session.get_providers():  # it goes on without one that it can't load
        raise SkdError(f"ONNX Runtime can't use '{device}' here: {provider} doesn't load; are its libraries installed?")
    return session


def place_helpers(options: Any, threads: int) -> None:
    """Gives each thread but the caller's a processor of its own, where `places` has them."""
    if helpers := places(threads)[1:]:  # the library counts processors from 1
        options.add_session_config_entry("session.intra_op_thread_affinities", ";".join(str(at + 1) for at in helpers))


def run(session: Any, outputs: Sequence[str], inputs: dict[str, NDArray[Any]]) -> list[Any]:
    """The named outputs. Raises SkdError where the graph fails."""
    with one_line(STOPPED):
        return session.run(outputs, inputs)


class one_line:
    """Turns ONNX Runtime's exceptions, which have no common base, into ours. A generator's context would cost 2 µs a token."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            raise SkdError(f"{self._what}: {' '.join(str(error).split())}") from error


def _provider(device: str) -> str:
    known = devices()
    if device in _APART:
        raise SkdError(
            f"ONNX exports don't run on '{device}' yet: their cache lies in the computer's own memory; use cpu."
        )
    if device not in known:
        raise SkdError(f"ONNX Runtime has no device '{device}' here, only {', '.join(known)}.")
    return known[device]
