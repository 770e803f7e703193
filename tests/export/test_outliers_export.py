"""Every quantization of a student that has a real model's outliers, in its language model and in its tower."""

import pytest
from support.llava_models import SIGLIP

from switchkd.manifest import Manifest

# In nats of the next word, for the whole student. Weights of an outlying channel are small beside their neighbours, so what
# rounds weights in groups costs more here than without outliers: ten times as much in 8 bits, twice in 4. Rounding what a
# product reads with one scale for all of it costs 0.3 nats.
LIMITS = {"8": 0.01, "4": 0.08}
QUANTS = {
    "8": [("gguf", "q8"), ("onnx", "q8")],
    "4": [
        *(("gguf", quant) for quant in ("q4", "q4_0", "q4_mixed", "q4_k_m", "q5_k_m")),
        *(("onnx", "q4"), ("hybrid", "q4")),
    ],
}
# A tower in 8 bits before a language model in 16.
TOWERS = [("gguf", "f16", "q8_0")]


@pytest.mark.parametrize(("format", "quant"), QUANTS["8"] + QUANTS["4"])
def test_outliers_pass(shelf, format, quant):
    """Also the proof's own limit, or there would be no export."""
    manifest = Manifest.load(shelf.export(format, quant, outliers=True, **SIGLIP))
    bits = "8" if (format, quant) in QUANTS["8"] else "4"
    assert 0 < manifest.parity["loss"]["kl_mean"] < LIMITS[bits]


@pytest.mark.parametrize(("format", "quant", "vision"), TOWERS)
def test_a_tower_with_outliers_passes(shelf, format, quant, vision):
    manifest = Manifest.load(shelf.export(format, quant, vision_quant=vision, outliers=True, **SIGLIP))
    assert manifest.vision_quant == vision
    assert 0 < manifest.parity["loss"]["kl_mean"] < LIMITS["8"]
