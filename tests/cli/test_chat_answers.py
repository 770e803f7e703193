"""`skd chat`: drawn, chosen and formed answers, and a conversation's commands."""

import json
import os
import pty
import subprocess
import sys

import pytest
from click.testing import CliRunner
from support.llava_models import picture, question
from support.serving import PATIENCE

from switchkd.cli.main import main
from switchkd.pictures import open_image
from switchkd.runtime.engines.choices import weigh
from switchkd.runtime.engines.opening import open_engine
from switchkd.runtime.engines.sampling import Sampling

ASKED = "how many cars ?"
SCHEMA = {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 2, "maxItems": 3}


@pytest.fixture(scope="module")
def student(shelf):
    return shelf.export("gguf", "f16")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat") / "road.png"
    picture().save(path)
    return path


@pytest.fixture(scope="module")
def engine(student):
    with open_engine(student, threads=1) as engine:
        yield engine


def run(student, *options, typed=None):
    words = ["chat", str(student), "--max-tokens", "8", "--threads", "1", *map(str, options)]
    return CliRunner().invoke(main, words, input=typed)


def chat(student, *options, typed=None):
    result = run(student, *options, typed=typed)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def own(engine, image, **sampling):
    features = engine.encode_image(open_image(image))
    return "".join(engine.generate(question(ASKED), features, max_new_tokens=8, sampling=Sampling(**sampling))) + "\n"


def test_every_setting_reaches_the_engine(student, engine, image):
    asked = ["--image", image, "--prompt", ASKED]
    drawn = {"temperature": 2.0, "seed": 5}
    assert chat(student, *asked) == own(engine, image)
    usual = chat(student, *asked, "--temperature", 2, "--seed", 5)
    assert usual == own(engine, image, **drawn)
    for name, value in (("top_k", 3), ("top_p", 0.2), ("min_p", 0.6), ("repetition_penalty", 9.0)):
        said = chat(student, *asked, "--temperature", 2, "--seed", 5, f"--{name.replace('_', '-')}", value)
        assert said == own(engine, image, **drawn, **{name: value}) != usual
    unseeded = {chat(student, *asked, "--temperature", 2) for _ in range(3)}
    assert len(unseeded) > 1


def test_choices_come_with_their_probabilities(student, engine, image):
    words = ["two", "a car, red", "yes"]
    features, ids = engine.encode_image(open_image(image)), engine.encode_prompt(question(ASKED))
    expected = dict(weigh(engine, question(ASKED), ids, features, words).probabilities)
    lines = chat(student, "--image", image, "--prompt", ASKED, "--choices", json.dumps(words)).splitlines()
    found = {line[10:]: float(line[:8]) for line in lines[1:]}
    assert found == {word: pytest.approx(value, abs=1e-4) for word, value in expected.items()}
    assert lines[0] == max(expected, key=expected.get) and list(found) == sorted(
        words, key=lambda word: -expected[word]
    )
    lines = chat(student, "--prompt", ASKED, "--choices", "two, yes").splitlines()
    assert {line[10:] for line in lines[1:]} == {"two", "yes"}


@pytest.mark.parametrize("choices", ["", "a,,b", "a,a", "[1]", '["a"', "[]x"])
def test_choices_that_are_none(student, choices):
    result = run(student, "--prompt", ASKED, "--choices", choices)
    assert result.exit_code == 2 and "--choices" in result.output


def test_an_answer_fits_a_schema(student, image, tmp_path):
    (tmp_path / "form.json").write_text(json.dumps(SCHEMA))
    options = ["--image", image, "--prompt", ASKED, "--schema", tmp_path / "form.json", "--max-tokens", 100]
    for more in ([], ["--temperature", 3, "--seed", 1]):
        value = json.loads(chat(student, *options, *more))
        assert 2 <= len(value) <= 3 and set(value) <= {"red", "green"}
    assert run(student, *options, "--choices", "a").exit_code == 2
    for text, reason in (
        ("[]", "holds no JSON schema"),
        ("{", "can't be read"),
        ('{"type": "x"}', "can't be followed"),
    ):
        (tmp_path / "form.json").write_text(text)
        result = run(student, *options)
        assert result.exit_code == 1 and reason in result.output and len(result.output.splitlines()) == 1
    (tmp_path / "form.json").unlink()
    assert "isn't there" in run(student, *options).output


def test_commands_of_a_conversation(student, image, tmp_path):
    """Probabilities tell which picture is seen, and whether something was said before."""
    other = tmp_path / "other.png"
    picture(3).save(other)
    form = ["--choices", "two,yes,no"]
    first, second = (chat(student, "--image", each, "--prompt", ASKED, *form) for each in (image, other))
    assert first != second
    lines = (
        ASKED,
        ASKED,
        "/reset",
        ASKED,
        f"/image {other}",
        ASKED,
        "/image nowhere.png",
        "/what",
        "/reset",
        ASKED,
        "",
    )
    result = run(student, "--image", image, *form, typed="\n".join(lines) + "\n")
    answers = result.stdout.splitlines(keepends=True)
    said = ["".join(answers[start : start + 4]) for start in range(0, len(answers), 4)]
    assert said[:1] + said[2:] == [first, first, second, second] and said[1] not in (first, second)
    assert "nowhere.png" in result.stderr and result.stderr.count("/image FILE") == 1


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is POSIX's")
def test_an_arrow_key_brings_the_last_question_back(student):
    """At a real terminal: a question, then the arrow upwards, then the end."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "switchkd.cli", "chat", str(student), "--max-tokens", "4", "--threads", "1"]
    environment = {**os.environ, "TERM": "xterm", "INPUTRC": os.devnull}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""

    def until(text: bytes, count: int) -> None:
        nonlocal shown
        while shown.count(text) < count:
            shown += os.read(ours, 4096)

    try:
        until(b"> ", 1)
        os.write(ours, b"is it red ?\r")
        until(b"> ", 2)
        os.write(ours, b"\x1b[A")
        until(b"is it red ?", 2)
        os.write(ours, b"\r")
        until(b"> ", 3)
        os.write(ours, b"\r")
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        os.close(ours)
