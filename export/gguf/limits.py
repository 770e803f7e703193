"""How far a GGUF export may differ from its checkpoint: what the proof holds it to."""

from switchkd.export.gguf.mixtures import MIXTURES

# Relative errors. llama.cpp looks gelu up in a float16 table and, in the projector, takes its tanh form for the exact one:
# with float32 weights that alone is 3e-4 to 1e-3.
TOLERANCE = {
    "f32": {"pixels": 1e-5, "features": 4e-3, "projected": 4e-3, "logits": 1e-2},
    "f16": {"pixels": 1e-5, "features": 5e-3, "projected": 5e-3, "logits": 2e-2},
}
# Largest mean KL in nats. With Qwen2.5-0.5B on real text, q8_0 loses 0.001 and q4_k_m 0.02 (see the same in onnx/limits.py).
MAX_DIVERGENCE = {"f32": 1e-3, "f16": 5e-3, **{name: mixture.limit for name, mixture in MIXTURES.items()}}
