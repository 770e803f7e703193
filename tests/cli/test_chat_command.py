"""`skd chat` puts the picture before the words, as in training, and tells where that changes what was typed."""

import pytest
from click.testing import CliRunner
from support.llava_models import picture

from switchkd.cli.main import main

FIRST, NONE = "The picture goes before the words", "it is read as plain text here"


@pytest.fixture(scope="module")
def student(shelf):
    return shelf.export("gguf", "f16")


@pytest.fixture
def image(tmp_path):
    picture().save(tmp_path / "road.png")
    return tmp_path / "road.png"


def chat(student, text, *options):
    words = ["chat", str(student), "--prompt", text, "--max-tokens", "8", "--threads", "1", *map(str, options)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout, result.stderr


@pytest.mark.parametrize("text", ["how many cars ? <image>", "how many <image> cars ?", "how many cars ?<image>"])
def test_a_picture_behind_words_goes_before_them(student, image, text):
    usual, said = chat(student, "how many cars ?", "--image", image)
    answer, told = chat(student, text, "--image", image)
    assert FIRST in told and FIRST not in said
    if text == "how many cars ?<image>":  # the same words, to the last space
        assert answer == usual


@pytest.mark.parametrize("text", ["<image>how many cars ?", "<image>\nhow many cars ?"])
def test_where_it_belongs_nothing_is_told(student, image, text):
    assert FIRST not in chat(student, text, "--image", image)[1]


@pytest.mark.parametrize(("text", "with_picture"), [("<image> what ?", False), ("<image> and <image> ?", True)])
def test_a_place_without_a_picture_is_told(student, image, text, with_picture):
    assert NONE in chat(student, text, *(["--image", image] if with_picture else []))[1]
