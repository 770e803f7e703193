"""Times against sums worked by hand, and what must hold for every workload and target."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switchkd.hardware.advice import advise
from switchkd.hardware.candidates import Candidate, candidates
from switchkd.hardware.cores import together
from switchkd.hardware.fit import Estimate, FitError, fit, seconds
from switchkd.hardware.profile import Figure, Profile, profile_names, shipped_profile
from switchkd.hardware.rates import rates_of
from switchkd.hardware.runtimes import GGUF, ONNX, RUNTIMES
from switchkd.hardware.workload import Language, StoredModel, Tower, Workload

QWEN = Language(layers=24, width=896, feed_forward=4864, heads=14, kv_heads=2, head_width=64, rows=151936)
PROJECTOR = 1152 * 896 + 896**2
SIGLIP = Tower(
    *(26, 1152, 4304),
    tokens=729,
    patch_values=588,
    heads=16,
    projector_weights=PROJECTOR,
    projector_macs=729 * PROJECTOR,
)


def student(quant="q8", format=ONNX, size=500_000_000) -> Workload:
    image = StoredModel(ONNX, "q8", 408_000_000, 408_000_000)
    text = StoredModel(format, quant, size, size + 136_000_000)
    return Workload("student", QWEN, text, SIGLIP, image, image_tokens=729, cache_bytes=4, tokenizer_bytes=7_000_000)


def computer(**values) -> Profile:
    """A measured computer: 20 GB/s, 100 and 300 Gmac/s, 30 for vectors, 8 GB of which 1 is taken."""
    known = {
        "ram_gb": 8.0,
        "system_gb": 1.0,
        "memory_read_gbps": 20.0,
        "matrix_f32_gmacs": 100.0,
        "matrix_int8_gmacs": 300.0,
        "vector_int8_gmacs": 30.0,
        "instructions": ["avx512_vnni"],
    } | values
    figures = {name: Figure(value, "a test", "measured") for name, value in known.items() if value is not None}
    return Profile("made", "Made up", figures, {name: "left out" for name, value in known.items() if value is None})


def test_weights_are_the_models():
    # Qwen2.5-0.5B: 0.36 B without embedding, 0.49 B with it (its model card).
    assert QWEN.layers * QWEN.block_weights == 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864) == 357_826_560
    assert QWEN.token_weights == 357_826_560 + 896 * 151936
    assert SIGLIP.block_weights == 4 * 1152**2 + 2 * 1152 * 4304 == 15_224_832


def test_decoding_by_hand():
    kernel, block = RUNTIMES[ONNX].kernels["q8"], RUNTIMES[ONNX].block_seconds
    phase = student().decode(1000)
    assert phase.bytes == 500_000_000 + 1000 * 2 * 24 * 2 * 64 * 4
    by_hand = phase.bytes / 20e9 + 493_961_216 / kernel.single / 30e9 + 24 * block
    estimate = seconds(phase, rates_of(computer()))
    assert estimate.value == pytest.approx(by_hand)
    # All three parts of the band move together: 1.3 for what was measured, 2 for the blocks' fixed cost.
    assert estimate.high == pytest.approx((by_hand - 24 * block) * 1.3 + 48 * block)
    assert estimate.low == pytest.approx((by_hand - 24 * block) / 1.3 + 12 * block)


def test_encoding_by_hand():
    macs = 729 * (26 * 15_224_832 + 588 * 1152) + 729 * (1152 * 896 + 896**2)
    attention = 2 * 26 * 729 * 729 * 1152
    phase = student().encode()
    assert (phase.macs, phase.attention, phase.bytes) == (macs, attention, 408_000_000)
    by_hand = (
        408e6 / 20e9
        + macs / (RUNTIMES[ONNX].kernels["q8"].vision * 300e9)
        + attention / (RUNTIMES[ONNX].attention * 100e9)
        + 26 * RUNTIMES[ONNX].block_seconds
    )
    assert seconds(phase, rates_of(computer())).value == pytest.approx(by_hand)


def test_prompts_are_read_in_pieces():
    phase = student().prefill(300)  # ONNX: 128, 128, 44
    assert phase.bytes == 3 * 500_000_000 and phase.blocks == 3 * 24
    assert phase.macs == 300 * 357_826_560 + 896 * 151936
    assert phase.attention == 2 * 24 * 896 * (128 * 128 + 128 * 256 + 44 * 300)
    whole = student(format=GGUF, quant="q4_0").prefill(300)  # llama.cpp: all at once
    assert whole.bytes == 500_000_000 and whole.attention == 2 * 24 * 896 * 300 * 300


def test_an_accelerator_is_bound_by_its_bus():
    nano = shipped_profile("jetson-orin-nano")
    rates = rates_of(nano, "accelerator")
    phase = student("q4").decode(0)
    by_hand = 500e6 / (0.7 * 68e9) + 24 * rates.block_seconds
    assert seconds(phase, rates).value == pytest.approx(by_hand)
    assert rates.int8.value == pytest.approx(0.3 * 20e3 / 2)


def test_cores_wait_for_the_slowest():
    # Eight small cores at 1.8 GHz do less than four large ones at 2.4, and all twelve would wait for the small ones.
    best = together({"Cortex-A76": 4, "Cortex-A55": 4}, {"Cortex-A76": 2.4, "Cortex-A55": 1.8})
    assert (best.count, best.f32, best.int8) == (4, pytest.approx(4 * 2.4 * 8), pytest.approx(4 * 2.4 * 32))
    mixed = together({"Cortex-X4": 1, "Cortex-A720": 5}, {"Cortex-X4": 3.3, "Cortex-A720": 3.0})
    assert mixed.count == 6 and mixed.f32 == pytest.approx(6 * 3.0 * 8)
    assert together({"Unheard-Of": 4}, {"Unheard-Of": 2.0}) is None
    assert together({"Cortex-A76": 4}, {}) is None


def test_memory_by_hand():
    found = fit(student(), computer(), context=2048)
    memory = found.memory
    assert memory.weights == 500_000_000 + 136_000_000 + 408_000_000
    assert memory.cache == 2048 * 2 * 24 * 2 * 64 * 4
    assert memory.runtime == RUNTIMES[ONNX].bytes + round(7_000_000 * RUNTIMES[ONNX].tokenizer_factor)
    assert memory.total == memory.weights + memory.cache + memory.activations + memory.runtime
    assert found.available == 7e9 and found.fits == "yes"
    assert fit(student(), computer(ram_gb=2.0)).fits == "no"
    assert fit(student(), computer(ram_gb=None), ram_gb=4.0).fits == "yes"
    assert fit(student(), computer(ram_gb=2.0), ram_gb=4.0).fits == "no"  # what the profile knows counts
    assert fit(student(), computer(ram_gb=None)).fits == "unknown"


def test_a_camera_rate_is_held_by_the_whole_band_or_not_at_all():
    picture = fit(student(), computer()).picture
    assert picture.low < picture.value < picture.high
    held = [fit(student(), computer(), rate=1 / each).holds_rate for each in (picture.high * 1.01, picture.value)]
    held.append(fit(student(), computer(), rate=1 / (picture.low * 0.99)).holds_rate)
    assert held == ["yes", "perhaps", "no"]
    assert fit(student(), computer()).holds_rate is None
    assert fit(student(), computer(matrix_f32_gmacs=None), rate=1).holds_rate == "unknown"
    assert fit(student(), computer(ram_gb=1.5), rate=0.01).holds_rate == "no"  # what doesn't fit holds no rate
    assert fit(student(), computer(ram_gb=None), rate=1e-3).holds_rate == "perhaps"


def test_one_answer_takes_all_its_tokens():
    found = fit(student(), computer(), answer_tokens=16)
    assert found.first_token.value == pytest.approx(found.encode.value + found.prefill.value)
    assert found.picture.value == pytest.approx(found.first_token.value + 15 * found.token.value)
    assert found.tokens_per_second.value == pytest.approx(1 / found.token.value)
    assert found.tokens_per_second.low == pytest.approx(1 / found.token.high)


def test_without_a_figure_there_is_no_guess():
    found = fit(student(), computer(memory_read_gbps=None))
    assert found.encode is found.prefill is found.token is found.picture is None
    assert any("memory bandwidth" in reason for reason in found.missing)
    plain = fit(student("fp32"), computer(matrix_int8_gmacs=None, vector_int8_gmacs=None))
    assert plain.prefill is not None and plain.token is not None and plain.encode is None  # only the tower is in int8


@pytest.mark.parametrize("processor", ["cpu", "accelerator"])
@pytest.mark.parametrize("name", [name for name in profile_names() if name != "local"])
def test_every_target_gets_a_report(name, processor):
    profile = shipped_profile(name)
    found = fit(student(), profile, rate=1.0, processor=processor)
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert value["target"] == name and set(value["predicted"]) >= {"fits", "memory_bytes", "decode_tokens_per_second"}
    assert bool(found.missing) or None not in (found.available, found.encode, found.prefill, found.token)
    assert value["prefer"]["reasons"]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"context": 100}, "context of 100"),
        ({"context": 10**6}, "trained"),
        ({"text_tokens": 0}, "positive"),
        ({"rate": 0}, "positive"),
        ({"answer_tokens": -1}, "positive"),
    ],
)
def test_questions_without_an_answer_are_refused(settings, word):
    with pytest.raises(FitError, match=word):
        fit(student(), computer(), **settings)


def test_the_context_is_what_the_student_was_trained_on_at_most():
    assert fit(student(), computer()).context == 2048
    small = replace(student(), trained_context=1024)
    assert fit(small, computer()).context == 1024


def test_unknown_precisions_and_processors_are_refused():
    with pytest.raises(FitError, match="iq2"):
        fit(student("iq2"), computer())
    with pytest.raises(ValueError, match="npu"):
        rates_of(computer(), "npu")


def test_what_no_table_knows_is_an_error_and_no_zero():
    with pytest.raises(FitError, match="format 'openvino'; known: gguf, onnx"):
        StoredModel("openvino", "q4", 1, 1)
    with pytest.raises(FitError, match=r"how large gguf iq2 is; known: .*gguf q4_0"):
        candidates(student(), GGUF, "iq2")
    with pytest.raises(FitError, match="how large onnx f16 is"):
        Candidate(ONNX, "q8", "f16")


PRECISIONS = [(name, quant) for name, runtime in RUNTIMES.items() for quant in runtime.kernels]
BETTER = ("memory_read_gbps", "matrix_f32_gmacs", "matrix_int8_gmacs", "vector_int8_gmacs")


@settings(max_examples=60, deadline=None)
@given(
    field=st.sampled_from(BETTER),
    factor=st.floats(1.01, 100),
    precision=st.sampled_from(PRECISIONS),
)
def test_a_faster_computer_is_never_slower(field, factor, precision):
    format, quant = precision
    work, slow = student(quant, format), computer()
    fast = computer(**{field: slow.value(field) * factor})
    for phase in ("encode", "prefill", "token", "picture"):
        before, after = getattr(fit(work, slow), phase), getattr(fit(work, fast), phase)
        assert after.value <= before.value and after.low <= before.low and after.high <= before.high


@settings(max_examples=60, deadline=None)
@given(
    context=st.integers(800, 16000),
    text=st.integers(1, 500),
    size=st.integers(10**6, 10**10),
    precision=st.sampled_from(PRECISIONS),
)
def test_more_work_takes_more_of_everything(context, text, size, precision):
    format, quant = precision
    here = computer()
    prompt = min(text, context - 729 - 16)
    less = fit(student(quant, format, size), here, context=context, text_tokens=prompt)
    longer = fit(student(quant, format, size), here, context=context + 100, text_tokens=prompt + 50)
    larger = fit(student(quant, format, size + 10**6), here, context=context, text_tokens=prompt)
    for more in (longer, larger):
        assert more.memory.total > less.memory.total
        assert more.prefill.value > less.prefill.value and more.token.value > less.token.value
        assert more.pictures_per_second.value < less.pictures_per_second.value
    for estimate in (less.encode, less.prefill, less.token, less.picture):
        assert 0 < estimate.low < estimate.value < estimate.high < math.inf


def test_estimates_add_scale_and_turn():
    one = Estimate(1, 2, 4)
    assert one + one == one.scaled(2) == Estimate(2, 4, 8)
    assert one.inverse() == Estimate(0.25, 0.5, 1)
    assert Estimate(1.23456, 2, 3).to_json() == {"low": 1.23, "value": 2.0, "high": 3.0}


def advised(instructions, *, answer=16, available=None, work=None, context=2048):
    work, here = work or student(), computer(instructions=instructions)
    found = advise(work, here, context=context, answer_tokens=answer, available=available)
    assert found.reasons
    return found


def preferred(instructions, **asked):
    choice = advised(instructions, **asked).choice
    return choice.format, choice.quant


def test_advice_follows_from_what_the_cores_can_do():
    assert preferred(["neon", "dotprod"]) == preferred(["avx2", "avx_vnni"]) == (ONNX, "q8")
    assert preferred(["neon"]) == preferred(None) == (GGUF, "q4_0")
    assert preferred(["dotprod"], answer=2000) == (ONNX, "q4")
    assert preferred(["dotprod"], work=replace(student(), tower=None, image=None, image_tokens=0)) == (ONNX, "q4")
    # AVX2 alone: int8 reads the picture's 729 tokens faster, which 94 tokens of an answer outweigh.
    assert preferred(["avx2"]) == preferred(["avx2"], answer=94) == (ONNX, "q8")
    assert preferred(["avx2"], answer=95) == (GGUF, "q4_0")
    wide = replace(student(), language=replace(QWEN, width=1536))
    assert preferred(["neon"], work=wide) == (GGUF, "q4_k_m")


def test_advice_fits_as_a_whole():
    """The tower, keys and values count: as GGUF with its tower in f16 this student takes more than in ONNX q8."""
    need = {
        way: way.memory(student(), 2048).total for quant in ("q8", "q4") for way in candidates(student(), ONNX, quant)
    }
    need |= {way: way.memory(student(), 2048).total for way in candidates(student(), GGUF, "q4_0")}
    assert [way.short for way in need] == [
        "onnx q8",
        "onnx q4",
        "gguf q4_0",
        "gguf q4_0, vision q8_0",
        "gguf q4_0, vision q4_0",
    ]
    eight, four, half, *smaller = need.values()
    assert eight == fit(student(), computer()).memory.total  # the variant at hand, by its real bytes
    assert half > eight > four > smaller[0] > smaller[1]
    chosen = [
        advised(["dotprod"], available=size).choice.short for size in (eight, eight - 1, four - 1, smaller[0] - 1)
    ]
    assert chosen == ["onnx q8", "onnx q4", "gguf q4_0, vision q8_0", "gguf q4_0, vision q4_0"]
    assert advised(["neon"], available=half - 1).choice.short == "gguf q4_0, vision q8_0"
    nothing = advised(["dotprod"], available=smaller[1] - 1)
    assert nothing.choice is None and "nothing fits" in nothing.reasons[0] and nothing.to_json()["format"] is None
    longer = advised(["dotprod"], available=eight, context=4096).choice
    assert longer.short == "onnx q4"


def test_a_candidates_bytes_by_hand():
    half, *_ = candidates(student(), GGUF, "q4_0")
    tower = 26 * 15_224_832 + 1152 * 896 + 896**2
    language = 357_826_560 * 4.5 / 8 + 896 * 151936 * 8.5 / 8
    memory = half.memory(student(), 1000)
    assert memory.weights == pytest.approx(language + 2 * tower, abs=2)
    assert memory.cache == 1000 * 2 * 24 * 2 * 64 * 2
    untied = half.memory(replace(student(), tied=False), 1000)
    assert untied.weights - memory.weights == pytest.approx(896 * 151936 * 4.5 / 8, abs=2)


def test_a_core_that_skd_doesnt_know_is_named():
    rates = {"matrix_f32_gmacs": None, "matrix_int8_gmacs": None, "vector_int8_gmacs": None}
    here = computer(cores={"Cortex-A73": 4}, clock_ghz={"Cortex-A73": 2.2}, **rates)
    (reason,) = fit(student(), here).missing
    assert "Cortex-A73" in reason and "Cortex-A72" in reason and "clock" not in reason
    assert "clock_ghz" in fit(student(), computer(cores={"Cortex-A73": 4}, clock_ghz=None, **rates)).missing[0]
