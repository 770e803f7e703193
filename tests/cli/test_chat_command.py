"""`skd chat` puts pictures before the words, as in training, and tells where that changes what was typed; several pictures."""

import json
import shutil

import pytest
from click.testing import CliRunner
from support.llava_models import picture

from switchkd.cli.main import main
from switchkd.manifest import FILE_NAME
from switchkd.pictures import open_image
from switchkd.runtime.engines.choices import weigh
from switchkd.runtime.engines.opening import open_engine

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


@pytest.fixture
def other(tmp_path):
    picture(3).save(tmp_path / "crossing.png")
    return tmp_path / "crossing.png"


@pytest.fixture
def engine(student):
    with open_engine(student, threads=1) as engine:
        yield engine


CHOICES = ["--choices", "two,yes"]


def printed(output):
    """Each answer's choices and their probabilities."""
    lines = output.splitlines()
    return [dict(line.split()[::-1] for line in lines[start + 1 : start + 3]) for start in range(0, len(lines), 3)]


def assert_own(engine, got, messages, *pictures):
    """What was printed is what the engine itself finds probable."""
    features, ids = engine.encode_images([*map(open_image, pictures)]), engine.encode_prompt(messages)
    expected = weigh(engine, messages, ids, features, ["two", "yes"]).probabilities
    assert {word: float(chance) for word, chance in got.items()} == pytest.approx(expected, abs=1e-4)


def asked(text, count=1):
    return {"role": "user", "content": [*[{"type": "image"}] * count, {"type": "text", "text": text}]}


def test_several_pictures_in_one_question(student, engine, image, other):
    found = []
    for pictures in ((image, other), (other, image)):
        shown = [word for path in pictures for word in ("--image", path)]
        said, told = chat(student, "how many ?", *shown, *CHOICES)
        found += printed(said)
        assert_own(engine, found[-1], [asked("how many ?", 2)], *pictures)
        assert told == "" and chat(student, "<image><image>how many ?", *shown, *CHOICES) == (said, "")
        moved = chat(student, "how <image> many <image> ?", *shown)[1]
        assert "The pictures go before the words" in moved
    assert found[0] != found[1]


def test_pictures_over_the_conversation(student, engine, image, other):
    """/add shows one more with the next question, /reset shows all of them again, /image begins anew with one: the choices'
    probabilities tell what was seen."""
    lines = [
        "red ?",
        f"/add {other}",
        "and here ?",
        "/add nowhere.png",
        "/reset",
        "red ?",
        f"/image {other}",
        "red ?",
        "",
    ]
    words = ["chat", str(student), "--image", str(image), "--threads", "1", *CHOICES]
    result = CliRunner().invoke(main, words, input="\n".join(lines) + "\n")
    assert result.exit_code == 0, result.output
    found = printed(result.stdout)
    said = result.stdout.splitlines()[0]
    assert_own(engine, found[0], [asked("red ?")], image)
    turns = [asked("red ?"), {"role": "assistant", "content": said}, asked("and here ?")]
    assert_own(engine, found[1], turns, image, other)
    assert_own(engine, found[2], [asked("red ?", 2)], image, other)
    assert_own(engine, found[3], [asked("red ?")], other)
    assert len({tuple(each.items()) for each in found}) == 4
    assert "The next question is about this picture too." in result.stderr and "nowhere.png" in result.stderr


def test_more_than_the_context_holds(student, engine, image):
    count = engine.language.context // engine.image_tokens + 1
    words = ["chat", str(student), "--prompt", "red ?", *["--image", str(image)] * count]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1
    assert f"{count} pictures take {count * engine.image_tokens} tokens" in result.output


@pytest.mark.parametrize(("trained", "told"), [(1, True), (2, False), (None, False)])
def test_a_student_that_has_seen_fewer_says_so_once(student, tmp_path, image, other, trained, told):
    copy = shutil.copytree(student, tmp_path / "student")
    manifest = json.loads((copy / FILE_NAME).read_text())
    (copy / FILE_NAME).write_text(json.dumps({**manifest, "pictures": trained}))
    words = ["chat", str(copy), "--image", str(image), "--max-tokens", "2", "--threads", "1"]
    lines = ["red ?", f"/add {other}", "and here ?", f"/add {other}", "and here ?", ""]
    result = CliRunner().invoke(main, words, input="\n".join(lines) + "\n")
    assert result.exit_code == 0, result.output
    line = "student was trained on conversations with at most one picture; what it says of more is a guess."
    assert result.stderr.count(line) == int(told)


@pytest.mark.parametrize(("text", "with_picture"), [("<image> what ?", False), ("<image> and <image> ?", True)])
def test_a_place_without_a_picture_is_told(student, image, text, with_picture):
    assert NONE in chat(student, text, *(["--image", image] if with_picture else []))[1]
