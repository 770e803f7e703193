"""Several answers behind one prompt, greedy and drawn, in every engine."""

import numpy as np
import pytest
from support.llava_models import SIGLIP, picture, question

from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.engines.sampler import Sampler
from switchkd.runtime.engines.sampling import Sampling

ENGINES = ["checkpoint", "gguf", "onnx"]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, shelf):
    exports = {"gguf": ("gguf", "f16"), "onnx": ("onnx", "fp32")}
    wanted = exports.get(request.param)
    with open_engine(shelf.export(*wanted, **SIGLIP) if wanted else shelf.checkpoint(**SIGLIP), threads=1) as engine:
        engine.end_tokens = frozenset()
        yield engine


def test_rewinding_forgets_an_answer_and_nothing_else(engine):
    """To the last bit, from the prompt's end and from within an answer."""
    ids, features = engine.encode_prompt(question()), engine.encode_image(picture())
    engine.prefill(ids, features)
    rows = {tokens: [engine.next_token(token) for token in tokens] for tokens in ((5, 6, 7),)}
    engine.rewind(len(ids))
    other = [engine.next_token(token) for token in (9, 6)]
    assert not np.array_equal(other[1], rows[5, 6, 7][1])
    engine.rewind(len(ids))
    for row, token in zip(rows[5, 6, 7], (5, 6, 7), strict=True):
        np.testing.assert_array_equal(engine.next_token(token), row)
    engine.rewind(len(ids) + 1)
    np.testing.assert_array_equal(engine.next_token(6), rows[5, 6, 7][1])


def test_drawn_answers_follow_their_seed(engine):
    features = engine.encode_image(picture())
    said = {
        seed: [
            "".join(
                engine.generate(question(), features, max_new_tokens=8, sampling=Sampling(temperature=2, seed=seed))
            )
            for _ in range(2)
        ]
        for seed in range(4)
    }
    assert all(first == second for first, second in said.values())
    assert len({first for first, _ in said.values()}) == 4


def test_a_drawn_answer_is_drawn_from_the_logits_that_follow_it(engine):
    ids, features = engine.encode_prompt(question()), engine.encode_image(picture())
    sampling = Sampling(temperature=1.5, top_k=50, repetition_penalty=1.2, presence_penalty=0.5, seed=2)
    said = list(engine.tokens(ids, features, max_new_tokens=6, choose=Sampler(sampling, ids)))
    again = Sampler(sampling, ids)
    assert [again(row) for row in engine.follow(ids, said, features)] == said
    assert said != list(engine.tokens(ids, features, max_new_tokens=6))
    assert engine.timings.new_tokens == 6


def test_several_answers_to_one_prompt_are_those_to_several(engine):
    ids, features = engine.encode_prompt(question()), engine.encode_image(picture())
    samplings = [Sampling(temperature=2, seed=seed) for seed in range(3)]
    alone = [list(engine.tokens(ids, features, max_new_tokens=5, choose=Sampler(each, ids))) for each in samplings]
    logits, together = engine.prefill(ids, features), []
    for each in samplings:
        engine.rewind(len(ids))
        together.append(list(engine.decode(logits, max_new_tokens=5, choose=Sampler(each, ids))))
    assert together == alone and engine.timings.new_tokens == 15
