"""The libraries underneath, told to keep quiet, and memory to stay."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings

import torch
import transformers

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def quiet() -> None:
    """Keeps libraries' notes about themselves out of the way of tables and progress bars."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for one and say that it found none
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("DeepSpeed", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torch|transformers|accelerate|deepspeed")


def keep_freed_memory() -> None:
    """Lets the C library keep what tensors free on the processor, for the next ones: given back to the system and asked for
    again, each page is cleared anew, a sixth of a small model's training step. Elsewhere than with glibc nothing happens."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, _NEVER)
