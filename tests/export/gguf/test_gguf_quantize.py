"""What llama.cpp makes of a mixture: the types that were asked for, rounded by what matters where it is told."""

import numpy as np
import pytest
from gguf import GGUFReader, dequantize
from support.llava_models import make_checkpoint

from switchkd.export.checkpoint import Checkpoint
from switchkd.export.gguf.language import write_language
from switchkd.export.gguf.mixtures import MIXTURES, Mixture, default_mixture
from switchkd.export.gguf.quantize import quantize


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def plain(request, tmp_path_factory):
    """An unquantized language file, and whether its embedding is its head."""
    folder = tmp_path_factory.mktemp("plain")
    write_language(Checkpoint(make_checkpoint(folder / "student", tied=request.param)), folder / "f16.gguf", "f16")
    return folder / "f16.gguf", request.param


def types_in(path):
    return {tensor.name: tensor.tensor_type.name.lower() for tensor in GGUFReader(path).tensors}


def values_in(path, name):
    tensor = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == name)
    return dequantize(tensor.data, tensor.tensor_type)


def test_every_tensor_gets_the_type_that_the_mixture_names(plain, tmp_path):
    source, tied = plain
    mixture = Mixture("q4_0", head="q5_1", embedding="q4_1", blocks={r"blk\.0\.attn_v": "q8_0", "attn_v": "iq4_nl"})
    quantize(source, tmp_path / "out.gguf", mixture, tied=tied, threads=1)
    types = types_in(tmp_path / "out.gguf")
    assert types["token_embd.weight"] == ("q5_1" if tied else "q4_1")
    assert types.get("output.weight") == (None if tied else "q5_1")
    assert (types["blk.0.attn_v.weight"], types["blk.1.attn_v.weight"]) == ("q8_0", "iq4_nl")
    assert types["blk.0.ffn_up.weight"] == "q4_0" and types["output_norm.weight"] == "f32"


@pytest.mark.parametrize("name", [name for name, mixture in MIXTURES.items() if mixture.weighted])
def test_an_importance_matrix_makes_what_is_weighted_more_exact(plain, tmp_path, name):
    source, tied = plain
    tensor = "blk.1.ffn_up.weight"
    exact = values_in(source, tensor)
    weights = np.where(np.arange(exact.shape[1]) % 4 == 0, 100.0, 0.01).astype(np.float32)
    importance = {each: np.ones(64, np.float32) for each in types_in(source) if "attn_q" in each} | {tensor: weights}
    errors = []
    for given in (None, importance):
        quantize(source, tmp_path / "out.gguf", MIXTURES[name], tied=tied, threads=1, importance=given)
        errors.append(np.mean(np.square(values_in(tmp_path / "out.gguf", tensor) - exact) * weights))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    ("width", "meant"), [(64, "q5_mixed"), (576, "q5_mixed"), (896, "q4_mixed"), (1536, "q4_k_m"), (256, "q4_k_m")]
)
def test_every_shape_has_a_default_of_four_bits(width, meant):
    assert default_mixture(width) == meant and meant in MIXTURES
