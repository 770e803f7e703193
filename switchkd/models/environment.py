"""The libraries underneath, told to keep quiet."""

from __future__ import annotations

import logging
import os
import warnings

import torch
import transformers


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
