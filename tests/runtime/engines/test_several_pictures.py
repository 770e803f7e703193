"""Conversations with several pictures, in one message and over turns: every engine gives what transformers gives."""

import numpy as np
import pytest
import torch
from support.answers import LIMITS
from support.llava_models import SIGLIP, picture, question

from switchkd.errors import DataError
from switchkd.models.vlm import load_vlm
from switchkd.runtime.bench.divergence import divergence
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.engines.picture_places import cut, join_features, picture_places

# None: the checkpoint itself.
ENGINES = {"checkpoint": None, "onnx-fp32": ("onnx", "fp32"), "gguf-f16": ("gguf", "f16")}
LIMIT = {"checkpoint": LIMITS["fp32"], "onnx-fp32": LIMITS["fp32"], "gguf-f16": LIMITS["fp16"]}
IMAGE = {"type": "image"}


def text(words):
    return {"type": "text", "text": words}


def answered(content):
    return [{"role": "user", "content": content}, {"role": "assistant", "content": "two"}]


def of(count):
    """Conversations about so many pictures."""
    in_front = [{"role": "user", "content": [*[IMAGE] * count, text("how many cars ?")]}]
    between = [{"role": "user", "content": [part for n in range(count) for part in (text(f"look {n} :"), IMAGE)]}]
    over_turns = [
        *(m for _ in range(count - 1) for m in answered([IMAGE, text("is it red ?")])),
        *question("and here ?"),
    ]
    split = [*answered([*[IMAGE] * (count - 1), text("a red car ?")]), *question("and here ?", "left :")]
    return {"in front": in_front, "between words": between, "over turns": over_turns, "split": split}


@pytest.fixture(scope="module")
def vlm(shelf):
    return load_vlm(shelf.checkpoint(**SIGLIP)).eval()


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, shelf):
    wanted = ENGINES[request.param]
    folder = shelf.export(*wanted, **SIGLIP) if wanted else shelf.checkpoint(**SIGLIP)
    with open_engine(folder, threads=1) as engine:
        engine.limit = LIMIT[request.param]
        yield engine


@pytest.mark.parametrize("form", of(2))
@pytest.mark.parametrize("count", [2, 4])
def test_logits_are_those_of_transformers(engine, vlm, count, form):
    pictures, messages = [picture(seed) for seed in range(count)], of(count)[form]
    ids = engine.encode_prompt(messages)
    pixels = torch.from_numpy(np.stack([engine.preprocess(each) for each in pictures]))
    with torch.inference_mode():
        expected = vlm(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0].numpy()  # [T, V]
    got = engine.language.prefill(ids, engine.encode_images(pictures), every=True)
    assert divergence(expected[:, : got.shape[1]], got).max() <= engine.limit
    last = engine.prefill(ids, engine.encode_images(pictures))
    assert divergence(expected[-1:, : len(last)], last[None]).max() <= engine.limit
    swapped = engine.prefill(ids, engine.encode_images(pictures[::-1]))
    assert divergence(expected[-1:, : len(last)], swapped[None]).max() > 5 * engine.limit


def test_one_picture_more_or_less_is_told(engine):
    messages, features = of(2)["in front"], engine.encode_images([picture(0)])
    with pytest.raises(DataError, match="don't match: 2 image parts, 1 pictures"):
        list(engine.generate(messages, features))
    with pytest.raises(DataError, match="don't match: 2 image parts, 3 pictures"):
        engine.answer(messages, *[picture(0)] * 3)
    two = engine.answer(messages, picture(0), picture(1), max_new_tokens=5)
    both = engine.encode_images([picture(0), picture(1)])
    assert "".join(engine.generate(messages, both, max_new_tokens=5)).strip() == two


def test_too_many_for_the_context_are_refused_before_any_is_looked_at(engine):
    count = engine.language.context // engine.image_tokens + 1
    engine.new_request()
    with pytest.raises(
        DataError, match=rf"{count * engine.image_tokens} of them for {count} pictures, more than the cont"
    ):
        engine.answer([{"role": "user", "content": [IMAGE] * count}], *[picture(0)] * count)
    assert engine.timings.preprocess == engine.timings.encode == 0


def test_a_request_leaves_nothing_behind(engine):
    """To the last bit, whatever was asked before."""
    asked = [
        (of(2)["over turns"], (0, 1)),
        (of(2)["over turns"], (0, 2)),
        (question(), (0,)),
        (of(4)["split"], range(4)),
    ]

    def ask(messages, seeds):
        return engine.prefill(engine.encode_prompt(messages), engine.encode_images([picture(seed) for seed in seeds]))

    first = [ask(*each) for each in asked]
    for index in (3, 1, 0, 2, 1, 3):
        np.testing.assert_array_equal(ask(*asked[index]), first[index])


def test_places_and_pieces():
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    ids = [5, 9, 9, 6, 9, 9]
    assert picture_places(ids, 9, features).tolist() == [False, True, True, False, True, True]
    pieces = list(cut(ids, 9, features))
    assert pieces[0] == [5] and pieces[2] == [6] and len(pieces) == 4
    np.testing.assert_array_equal(np.concatenate([pieces[1], pieces[3]]), features)
    assert list(cut([5, 6], 9, None)) == [[5, 6]]
    (alone,) = cut([9] * 4, 9, features)
    np.testing.assert_array_equal(alone, features)
    assert join_features([]) is None and join_features([features]) is features
    np.testing.assert_array_equal(join_features([features[:2], features[2:]]), features)
    for wrong, given in (([9, 5, 9], features), ([9] * 5, features), ([5], features), ([9], None)):
        with pytest.raises(ValueError, match="features need"):
            picture_places(wrong, 9, given)
