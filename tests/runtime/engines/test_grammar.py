"""Answers held to a schema always parse and fit it, whatever a random model would rather say."""

import json
import sys
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from support.languages import make_student
from support.schemas import SCHEMAS, fits

from switchkd.errors import MissingDependencyError
from switchkd.runtime.engines.grammar import GrammarError, Grammars
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.engines.sampler import best, chooser
from switchkd.runtime.engines.sampling import GREEDY, Sampling

TEXTS = some.text("abc what ?", max_size=20)
SAMPLINGS = some.just(GREEDY) | some.builds(
    lambda temperature, seed: Sampling(temperature=temperature, seed=seed, repetition_penalty=1.1),
    some.sampled_from([0.5, 1.0, 3.0]),
    some.integers(0, 1000),
)
NESTED = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["n"]}
DEEP = reduce(lambda inner, _: {"type": "array", "items": inner}, range(500), {})


@pytest.fixture(scope="module")
def engine(shelf):
    with open_engine(shelf.export("gguf", "f16"), threads=1) as engine:
        yield engine


def said(engine, schema, text="how many cars ?", sampling=GREEDY, most=600):
    messages = [{"role": "user", "content": text}]
    ids = engine.encode_prompt(messages)
    choose = engine.grammars.json_schema(schema).constrain(chooser(sampling, ids))
    answer = "".join(engine.pieces(engine.tokens(ids, max_new_tokens=most, choose=choose)))
    assert engine.timings.ended, answer
    return answer


@settings(max_examples=60, deadline=None)
@given(schema=SCHEMAS, text=TEXTS, sampling=SAMPLINGS)
def test_answers_fit_their_schema(engine, schema, text, sampling):
    value = json.loads(said(engine, schema, text, sampling))
    assert fits(value, schema), (value, schema)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(schema=SCHEMAS, text=TEXTS, sampling=SAMPLINGS)
def test_a_thousand_answers_fit_their_schema(engine, schema, text, sampling):
    value = json.loads(said(engine, schema, text, sampling))
    assert fits(value, schema), (value, schema)


@pytest.mark.parametrize("language", ["vicuna", "smollm2"])
def test_other_tokenizers(language, shelf):
    student = shelf.once(f"student-of-{language}", lambda folder: make_student(folder, language))
    with open_engine(student, threads=1) as engine:
        for seed in range(4):
            sampling = Sampling(temperature=2, seed=seed)
            value = json.loads(said(engine, {**NESTED, "additionalProperties": False}, sampling=sampling))
            assert fits(value, {**NESTED, "additionalProperties": False})


def test_the_most_probable_token_that_fits_is_taken(engine):
    """Step by step from the plain logits: what was taken is the best of all that could have been."""
    ids = engine.encode_prompt([{"role": "user", "content": "is it red ?"}])
    schema = {"enum": ["two", "a red car", "yes"]}
    answer = list(engine.tokens(ids, choose=engine.grammars.json_schema(schema).constrain(best)))
    spelled = [engine.prompt.encode_text(json.dumps(each)) for each in schema["enum"]]
    logits = next(engine.follow(ids, answer))
    first = [token for token in range(len(logits)) if any(_begins(engine, token, each) for each in schema["enum"])]
    assert answer[0] == max(first, key=lambda token: logits[token])
    assert engine.prompt.decode(answer) in [engine.prompt.decode(each) for each in spelled]


def _begins(engine, token, word):
    text = engine.prompt.tokenizer.decode([token], skip_special_tokens=True)
    return bool(text) and json.dumps(word).startswith(text)


def test_rows_that_are_no_tokens_are_never_said(engine):
    """A model has more rows than its tokenizer has ids; the largest logit there tempts nobody."""
    choose = engine.grammars.json_schema({"type": "boolean"}).constrain(best)
    logits = np.zeros(410, np.float32)
    logits[engine.prompt.length :] = 9
    token = choose(logits)
    assert token < engine.prompt.length and logits[engine.prompt.length] == 9


@pytest.mark.parametrize(
    "schema",
    [{"type": "objekt"}, {"$ref": "https://example.org"}, {"type": "string", "pattern": "(?=a)"}, {"not": {}}, DEEP],
    ids=lambda schema: str(schema)[:40],
)
def test_schemas_that_cannot_be_followed(engine, schema):
    with pytest.raises(GrammarError, match="can't be followed") as caught:
        engine.grammars.json_schema(schema)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=r"switchkd\[schema\]"):
        Grammars(engine.prompt, engine.end_tokens).json_schema({"type": "object"})


def test_an_endless_form_ends_at_the_limit(engine):
    ids = engine.encode_prompt([{"role": "user", "content": "x"}])
    choose = engine.grammars.json_schema({"type": "array", "items": {"type": "null"}, "minItems": 500}).constrain(best)
    assert len(list(engine.tokens(ids, max_new_tokens=20, choose=choose))) == 20 and not engine.timings.ended
