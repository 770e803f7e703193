"""What lmms-eval finds under its entry points `lmms_eval.models`: the model `skd`."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The registration of `runtime.lmms_model.ExportedStudent`, which is loaded when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="skd", simple_class_path="switchkd.runtime.lmms.model.ExportedStudent")
