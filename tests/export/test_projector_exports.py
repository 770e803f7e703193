"""Every projector and selection of tokens that a format can hold, exported and proved; the others refused by their reason."""

import numpy as np
import pytest
from support.answers import assert_says_the_same, first_tokens
from support.llava_models import picture, question
from support.projectors import CLIP, PROJECTORS
from support.stock_llama import ask

from switchkd.architecture.families import known
from switchkd.architecture.family import Projector
from switchkd.errors import CheckpointError
from switchkd.export.checkpoint import Checkpoint
from switchkd.export.exporter import exporter_for
from switchkd.export.parity import relative_error
from switchkd.manifest import Manifest
from switchkd.runtime.engines.opening import open_engine

LDPV2 = {"projector": "ldpv2", "image_size": 336, "patch_size": 14}  # 24 patches a side, as llama.cpp takes for granted
TWO = {"projector": "pixel_shuffle", "projector_settings": {"projector_layers": 2}}
# Name → (format, precision, settings, tokens a picture).
EXPORTS = {
    "ldpv2 gguf": ("gguf", "f32", LDPV2 | {"vision": CLIP}, 144),
    "ldpv2 of siglip gguf": ("gguf", "f16", LDPV2, 144),
    "shuffle gguf": ("gguf", "f16", PROJECTORS["shuffle"], 4),
    "shuffle, two layers gguf": ("gguf", "f16", TWO | {"image_size": 16 * 14}, 64),
    "first patch dropped gguf": ("gguf", "f16", {"feature_select": "default"}, 15),
    "ldpv2 hybrid": ("hybrid", "f32", PROJECTORS["ldpv2"], 4),
}
MORE = {
    "class token passed on hybrid": ("hybrid", "f32", {"vision": CLIP, "feature_select": "full"}, 17),
    "ldpv2 onnx": ("onnx", "fp32", PROJECTORS["ldpv2"], 4),
    "class token passed on onnx": ("onnx", "fp32", {"vision": CLIP, "feature_select": "full"}, 17),
    "TinyLLaVA Factory's tokens gguf": ("gguf", "f16", {"feature_select": "default", "image_size": 384}, 728),
    "ldpv2 gguf q4": ("gguf", "q4", LDPV2 | {"vision": CLIP}, 144),
    "shuffle by 3 gguf": ("gguf", "q8", PROJECTORS["shuffle by 3"], 4),
    "first patch dropped onnx": ("onnx", "fp32", {"feature_select": "default"}, 15),
    "mlp1 onnx": ("onnx", "fp32", PROJECTORS["mlp1"], 16),
    "mlp3 onnx": ("onnx", "fp32", PROJECTORS["mlp3"], 16),
    "shuffle onnx": ("onnx", "fp32", PROJECTORS["shuffle"], 4),
    "shuffle by 4, two layers onnx": ("onnx", "fp32", PROJECTORS["shuffle by 4, two layers"], 1),
    "average onnx": ("onnx", "fp32", PROJECTORS["average"], 4),
    "ldpv2 onnx q8": ("onnx", "q8", PROJECTORS["ldpv2"], 4),
    "average hybrid": ("hybrid", "q8", PROJECTORS["average"], 4),
    "average onnx q4": ("onnx", "q4", PROJECTORS["average"], 4),
}
# Largest relative error of the logits along an answer, by precision.
ERRORS = {"f32": 5e-3, "f16": 1e-2, "q8": 0.1, "q4": 0.7, "fp32": 1e-4}


@pytest.mark.parametrize("name", [*EXPORTS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_an_export_is_its_checkpoint(shelf, name):
    format, quant, settings, tokens = (EXPORTS | MORE)[name]
    seeing = "fp32" if (format, quant) == ("hybrid", "f32") else None
    folder = shelf.export(format, quant, vision_quant=seeing, feature_layer=-2, **settings)
    manifest = Manifest.load(folder)
    assert manifest.image.tokens == tokens
    errors = manifest.parity["stages"]["error"]  # the proof ran
    assert list(errors) == ["pixels", "features", "projected", "logits"] and max(errors.values()) < 5e-3
    checkpoint = shelf.checkpoint(feature_layer=-2, **settings)
    with open_engine(checkpoint, threads=1) as reference, open_engine(folder, threads=1) as engine:
        assert engine.image_tokens == reference.image_tokens == tokens == len(engine.encode_image(picture()))
        assert_says_the_same(engine, reference, picture(), error=ERRORS[quant])


REFUSED = {
    "mlp1": (PROJECTORS["mlp1"], "GELU behind the first layer"),
    "mlp3": (PROJECTORS["mlp3"], "would leave the third out"),
    "average": (PROJECTORS["average"], "averages patches for no projector of two layers"),
    "a small grid": (PROJECTORS["ldpv2"], "4 patches along .*; llama.cpp's LDPv2 takes 24 for granted"),
    "shuffle of clip": ({"vision": CLIP, "projector": "pixel_shuffle"}, "has a class token"),
    "two layers, 4 tokens": (TWO, "resizes pictures to 64 to 256 tokens"),
    "two layers, 289 tokens": (TWO | {"image_size": 34 * 14}, "which one of 476 pixels in patches of 14 isn't"),
    "two layers, a cut": (TWO | {"image_size": 16 * 14 + 6}, "which one of 230 pixels in patches of 14 isn't"),
    "class token": ({"vision": CLIP, "feature_select": "full"}, "passes the tower's class token on"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_gguf_cannot_hold_is_refused_by_its_reason_and_onnx_holds_it(shelf, name):
    settings, reason = REFUSED[name]
    checkpoint = Checkpoint(shelf.checkpoint(feature_layer=-2, **settings))
    with pytest.raises(CheckpointError, match=reason) as error:
        exporter_for("gguf").plan(checkpoint, "f16", None)
    assert "\n" not in str(error.value)
    for format, quant in (("onnx", "q8"), ("hybrid", "q4")):  # whose towers are in ONNX
        exporter_for(format).plan(checkpoint, quant, None)


def test_every_projector_is_tried():
    tried = {settings.get("projector", "mlp") for _, _, settings, _ in (EXPORTS | MORE).values()}
    assert tried == {family.name for family in known(Projector)}


def stock(shelf, name, *, answer=4):
    """What llama.cpp by itself, the engine and PyTorch see and say: (Seen, (rows, answer), (rows, answer))."""
    format, quant, settings, _ = EXPORTS[name]
    folder = shelf.export(format, quant, feature_layer=-2, **settings)
    image = picture(3, 400, 300)
    both = []
    for each in (folder, shelf.checkpoint(feature_layer=-2, **settings)):
        with open_engine(each, threads=1) as engine:
            both.append((engine.encode_image(image), first_tokens(engine, image, answer)))
            pixels, prompt = engine.preprocess.resize(image), engine.prompt
    asked = prompt.encode(question(), image_tokens=1, add_generation_prompt=True).ids
    text = prompt.tokenizer.decode(asked, skip_special_tokens=False).replace(prompt.image_token, "<__media__>")
    return ask(folder, text, pixels, width=64, vocabulary=410, answer=answer), *both


def test_llama_cpp_by_itself_runs_ldpv2_where_the_tower_has_no_class_token(shelf):
    alone, ours, torch = stock(shelf, "ldpv2 of siglip gguf")
    assert alone.image_tokens == [144]
    assert relative_error(alone.rows, torch[0]) < 1e-3
    assert alone.answer == ours[1] == torch[1]


def test_llama_cpp_by_itself_sees_ldpv2_of_clip_wrongly(shelf):
    """Its issue 25814: each patch has its neighbour's position. A test that fails here says that llama.cpp was put right."""
    alone, ours, torch = stock(shelf, "ldpv2 gguf")
    assert alone.image_tokens == [144]
    assert relative_error(ours[0], torch[0]) < 1e-3 and relative_error(alone.rows, torch[0]) > 0.1
    assert ours[1] == torch[1]


def test_llama_cpp_by_itself_sees_the_dropped_patch_too(shelf):
    alone, ours, torch = stock(shelf, "first patch dropped gguf", answer=1)
    assert alone.image_tokens == [16] and len(ours[0]) == 15
    np.testing.assert_allclose(alone.rows[1:], ours[0], rtol=0, atol=0.02)
    assert relative_error(ours[0], torch[0]) < 1e-3


def test_llama_cpp_by_itself_shows_a_shuffled_picture_once_in_front_of_two_layers(shelf):
    alone, _, torch = stock(shelf, "shuffle, two layers gguf", answer=0)
    assert alone.image_tokens == [64]
    assert relative_error(alone.rows, torch[0]) < 1e-3


def test_llama_cpp_by_itself_shows_a_shuffled_picture_twice(shelf):
    """As SmolVLM's overview and tile, with text around them; the overview is what the engine takes."""
    alone, _, torch = stock(shelf, "shuffle gguf", answer=0)
    assert alone.image_tokens == [4, 4]
    assert relative_error(alone.rows, torch[0]) < 1e-3
