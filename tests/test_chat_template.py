"""Chat templates without their marks for training: any reader of templates takes them, and they write the same text."""

import json

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from jinja2.sandbox import ImmutableSandboxedEnvironment

from switchkd.chat_template import compile_template, inference_template, read_marks, shipped_template
from switchkd.export.companions import copy_companions

LOOP = "{% for message in messages %}\n  [{{ message.role }}]\n  BODY\n{% endfor %}\n"
BODIES = [
    "{% generation %}{{ message.content }}{% endgeneration %}",
    "{%- generation -%}\n {{ message.content }} \n{%- endgeneration -%}",
    "{%+ generation +%}\n{{ message.content }}\n{%+ endgeneration +%}",
    "{%generation%}{{ message.content }}{%endgeneration%}",
    "{% generation %}\n\n  {{ message.content }}\n\n{% endgeneration %}\n\n",
    "{% if message.role == 'assistant' %}{%- generation %}{{ message.content + '!' }}{% endgeneration -%}{% endif %}",
    "{% generation -%} a {%- endgeneration %} {%- generation %} b {% endgeneration -%} c",
]
# What looks like a mark and is none.
OTHERS = [
    "{# {% generation %} #}{{ message.content }}",
    "{{ '{% generation %}' }}",
    '{{ "\\"{% endgeneration %}" }}',
    "{% raw %}{% generation %}{% endraw %}",
    "{% set text = '{% generation %}' %}{{ text }}",
    "{% if message.content == \"{% generation %}\" %}x{% endif %}{{ {'a': 'generation'}['a'] }}",
    "{% set generation = 1 %}{{ generation }}",
]
MESSAGES = [{"role": "user", "content": "how many ?"}, {"role": "assistant", "content": " two\n"}]


def marked(template, messages=MESSAGES):
    return read_marks(compile_template(template).render(messages=messages, add_generation_prompt=True)).text


def elsewhere(template, messages=MESSAGES):
    """In an environment that knows nothing of transformers."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = lambda message: message
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True)


@pytest.mark.parametrize("template", [*(LOOP.replace("BODY", body) for body in BODIES), shipped_template("chatml")])
def test_marks_go_and_the_text_stays(template):
    with pytest.raises(jinja2.TemplateSyntaxError):
        elsewhere(template)
    plain = inference_template(template)
    assert elsewhere(plain) == marked(plain) == marked(template)
    assert not compile_template(plain).environment.marks_answers
    assert inference_template(plain) == plain


@pytest.mark.parametrize("body", OTHERS)
def test_what_is_no_mark_stays(body):
    template = LOOP.replace("BODY", body)
    assert inference_template(template) == template
    both = LOOP.replace("BODY", body + BODIES[1] + body)
    assert elsewhere(inference_template(both)) == marked(both)


@settings(max_examples=150, deadline=None)
@given(pieces=some.lists(some.sampled_from([*BODIES, *OTHERS, "\n", "  ", "text\n"]), max_size=5))
def test_any_mixture(pieces):
    template = LOOP.replace("BODY", "".join(pieces))
    assert elsewhere(inference_template(template)) == marked(template)


@settings(max_examples=200, deadline=None)
@given(text=some.text("{%#}-+ \n'\"generationdrawif", max_size=40))
def test_what_is_no_template_ends_too(text):
    inference_template(text)


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "chat_template.json", "named"])
def test_every_file_that_may_hold_one(tmp_path, place):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    template = shipped_template("chatml")
    if place == "chat_template.jinja":
        (source / place).write_text(template)
    elif place == "named":
        value = {"chat_template": [{"name": "default", "template": template}], "a": "é"}
        (source / "tokenizer_config.json").write_text(json.dumps(value))
    else:
        (source / place).write_text(json.dumps({"chat_template": template, "a": "é"}))
    (source / "config.json").write_text('{"a":   1}')
    copy_companions(source, target)
    assert {path.name for path in source.iterdir()} == {path.name for path in target.iterdir()}
    assert (target / "config.json").read_bytes() == (source / "config.json").read_bytes()
    written = "".join(path.read_text() for path in target.iterdir())
    assert "generation %}" not in written.replace("add_generation", "") and "if true" in written
    if place.endswith(".json"):
        assert json.loads((target / place).read_text()) == {"chat_template": inference_template(template), "a": "é"}
