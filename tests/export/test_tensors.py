"""The safetensors reader agrees with the safetensors library, and refuses torn files."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from switchkd.errors import CheckpointError
from switchkd.export.tensors import stored_tensors


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {
        "wide": torch.randn(5, 7),
        "half": torch.randn(3, 4).half(),
        "brain": torch.randn(2, 3, 4).bfloat16(),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
    }


def test_values_equal_the_library(tmp_path, tensors):
    save_file({**tensors, "positions": torch.arange(4)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = stored_tensors(tmp_path)
    assert set(found) == set(tensors)  # whole numbers are no weights
    for name, tensor in tensors.items():
        values = found[name].read()
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, tensor.float().numpy())


def test_several_files(tmp_path, tensors):
    """Those that the index names; what else lies there is none of the model's."""
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"wide": "model-1.safetensors", "half": "model-2.safetensors"}}))
    save_file({"wide": tensors["wide"]}, tmp_path / "model-1.safetensors")
    save_file({"half": tensors["half"]}, tmp_path / "model-2.safetensors")
    save_file({"half": tensors["half"]}, tmp_path / "model-3.safetensors")
    assert set(stored_tensors(tmp_path)) == {"wide", "half"}
    save_file({"half": tensors["half"], "wide": tensors["wide"]}, tmp_path / "model-2.safetensors")
    with pytest.raises(CheckpointError, match="wide is both in"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 8, 60, 0.5, -1])
def test_truncated_files(tmp_path, tensors, keep):
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"truncated|torn"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]},
        {"shape": [1]},
        "x",
    ],
)
def test_lying_headers(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError):
        stored_tensors(tmp_path)


def test_other_formats_are_not_read(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no \.safetensors"):
        stored_tensors(tmp_path)
