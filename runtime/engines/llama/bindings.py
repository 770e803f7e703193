"""The package llama_cpp: plain C bindings to llama.cpp, its shared libraries, and its last words on what failed."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import ModuleType
from typing import Any

from switchkd.errors import MissingDependencyError, SkdError

_messages: list[str] = []  # llama.cpp's latest errors, for ours


def bindings() -> ModuleType:
    """The package llama_cpp, its chatter turned off. Runs nothing of llama.cpp's that was compiled for one processor.

    Raises:
        MissingDependencyError: llama-cpp-python isn't installed.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingDependencyError("GGUF needs an extra: pip install 'switchkd[gguf]'.") from error
    llama_cpp.llama_log_set(log_message, None)
    return llama_cpp


def libraries() -> Path:
    """The folder of llama.cpp's shared libraries."""
    return Path(str(bindings().__file__)).parent / "lib"


def shared_library(name: str) -> ctypes.CDLL:
    """One of them, such as "ggml-base". Raises FileNotFoundError where the build has none of that name."""
    folder = libraries()
    from llama_cpp._ctypes_extensions import load_shared_library

    return load_shared_library(name, folder)


def failure(what: str) -> SkdError:
    """An error about `what`, with llama.cpp's own last words on it."""
    words = "; ".join(_messages[-2:])
    _messages.clear()
    return SkdError(f"{what}{': ' + words if words else ''}.")


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def log_message(level: int, text: bytes, _: Any) -> None:
    """What llama.cpp calls: keeps errors (level 4) for `failure` and drops the rest."""
    if level == 4 and text:
        _messages.append(text.decode(errors="replace").strip().rstrip("."))
        del _messages[:-8]
