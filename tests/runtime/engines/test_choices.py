"""Choices' probabilities against a literal product of softmaxes, in every engine, and what is said of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from support.languages import make_student
from support.llava_models import SIGLIP, picture, question

from switchkd.errors import DataError
from switchkd.runtime.engines.choices import Choices, Followed, answer_ids, weigh
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.engines.sampling import GREEDY, Sampling

WORDS = ["a red car", "a red", "two", "two cars", "yes", "Straße", "12", "is the light green ?", "no"]


@pytest.fixture(scope="module", params=["checkpoint", "gguf", "onnx"])
def engine(request, shelf):
    exports = {"gguf": ("gguf", "f16"), "onnx": ("onnx", "fp32")}
    wanted = exports.get(request.param)
    with open_engine(shelf.export(*wanted, **SIGLIP) if wanted else shelf.checkpoint(**SIGLIP), threads=1) as engine:
        yield engine


def literal(engine, ids, features, answer):
    """The probability of each token after all before it, and of an end after the last, each prompt read from its start."""
    product = 1.0
    for place in range(len(answer) + 1):
        logits = engine.language.prefill([*ids, *answer[:place]], features).astype(np.float64)
        softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        product *= softmax[answer[place]] if place < len(answer) else softmax[sorted(engine.end_tokens)].sum()
    return product


def test_probabilities_are_products_of_softmaxes(engine):
    for seed in range(2):
        features = engine.encode_image(picture(seed))
        messages = question()
        ids = engine.encode_prompt(messages)
        weighed = weigh(engine, messages, ids, features, WORDS)
        answers = [engine.prompt.encode_text(word) for word in WORDS]
        products = np.array([literal(engine, ids, features, answer) for answer in answers])
        found = np.array([weighed.probabilities[word] for word in WORDS])
        np.testing.assert_allclose(found, products / products.sum(), rtol=2e-3)
        text, followed = weighed.choose(GREEDY)
        assert text == WORDS[int(products.argmax())]
        assert np.exp(followed.logprob) == pytest.approx(products.max(), rel=2e-3)


def test_the_order_of_choices_changes_nothing(engine):
    messages = question()
    features, ids = engine.encode_image(picture()), engine.encode_prompt(messages)
    first, second = (weigh(engine, messages, ids, features, words).probabilities for words in (WORDS, WORDS[::-1]))
    assert first == pytest.approx(second, rel=1e-6)
    assert sum(first.values()) == pytest.approx(1)
    one = weigh(engine, messages, ids, features, ["two"])
    assert dict(one.probabilities) == {"two": 1.0}


def test_scores_follow_the_tokens(engine):
    messages = question()
    features, ids = engine.encode_image(picture()), engine.encode_prompt(messages)
    weighed = weigh(engine, messages, ids, features, WORDS, top=3)
    text, followed = weighed.choose(GREEDY)
    answer = engine.prompt.encode_text(text)
    rows = list(engine.follow(ids, answer, features))
    assert [each.token for each in followed.scores] == answer
    for row, each in zip(rows, followed.scores, strict=True):
        exact = row.astype(np.float64)
        total = np.log(np.exp(exact - exact.max()).sum()) + exact.max()
        assert each.logprob == pytest.approx(exact[each.token] - total, abs=2e-3) and len(each.top) == 3
        assert each.top[0][1] == pytest.approx(exact.max() - total, abs=2e-3)


def test_choices_that_are_one_or_none(engine):
    messages = [{"role": "user", "content": "is it red ?"}]
    ids = engine.encode_prompt(messages)
    with pytest.raises(DataError, match="no tokens of its own"):
        weigh(engine, messages, ids, None, ["Stra\u00dfe", "e\u0301", "\u00e9"])
    with pytest.raises(DataError, match="doesn't fit the context"):
        weigh(engine, messages, ids, None, ["two", "red " * engine.language.context])


@settings(max_examples=20, deadline=None)
@given(seed=some.integers(0, 1000), temperature=some.sampled_from([0.5, 1.0, 2.0]))
def test_choices_are_drawn_by_their_probability(seed, temperature):
    logprobs = np.random.default_rng(seed).standard_normal(5) * 2 - 30
    choices = Choices("abcde", [Followed((), value) for value in logprobs])
    drawn = [choices.choose(Sampling(temperature=temperature, seed=number))[0] for number in range(400)]
    weights = np.exp((logprobs - logprobs.max()) / temperature)
    for letter, expected in zip("abcde", 400 * weights / weights.sum(), strict=True):
        assert abs(drawn.count(letter) - expected) < 5 * np.sqrt(expected) + 5


@pytest.mark.parametrize("language", ["vicuna", "smollm2"])
def test_a_choice_is_tokenized_as_an_answer_in_training(language, shelf):
    """What the template's marks call the answer, without its end."""
    student = shelf.once(f"student-of-{language}", lambda folder: make_student(folder, language))
    with open_engine(student, threads=1) as engine:
        for text in (*WORDS, "naïve", " two ", "12 cars"):
            ids = engine.encode_prompt(question())
            talk = [*question(), {"role": "assistant", "content": text}]
            whole = engine.prompt.encode(talk, image_tokens=engine.image_tokens, labels=True)
            marked = [token for token, is_answer in zip(whole.ids, whole.answer_mask, strict=True) if is_answer]
            assert marked[-1] in engine.end_tokens or marked[-2] in engine.end_tokens
            expected = [token for token in marked if token not in engine.end_tokens]
            assert answer_ids(engine, question(), ids, text) == expected
