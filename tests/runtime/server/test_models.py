"""Several models behind one address: which answers, under which names, and one after another."""

import json
import shutil
import signal
import subprocess
import sys
import urllib.request

import openai
import pytest
from click.testing import CliRunner
from support.serving import HELLO, PATIENCE, about, data_url, in_background, running, wait_in_queue

from switchkd.cli.main import main
from switchkd.files import file_sha256


@pytest.fixture
def pair(engine, other_engine):
    with running(engine, other_engine, aliases=("usual",)) as served:
        yield served


def said(served, model: str, messages=HELLO) -> str:
    return served.client.chat.completions.create(model=model, messages=messages).choices[0].message.content


def test_each_answers_as_it_does_alone(pair, engine, other_engine):
    messages = about(data_url(2))
    with running(other_engine) as alone:
        others = said(alone, other_engine.name, messages)
    with running(engine) as alone:
        own = said(alone, engine.name, messages)
    assert own != others
    for name, expected in (
        (other_engine.name, others),
        ("usual", own),
        (engine.name, own),
        (other_engine.name, others),
    ):
        assert said(pair, name, messages) == expected


def test_the_first_answers_where_none_is_named(pair, engine):
    body = json.dumps({"messages": HELLO}).encode()
    call = urllib.request.Request(f"{pair.url}/chat/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(call, timeout=PATIENCE) as response:
        answer = json.load(response)
    assert answer["model"] == engine.name
    assert answer["choices"][0]["message"]["content"] == said(pair, engine.name)


def test_all_are_listed(pair, engine, other_engine):
    cards = {card.id: getattr(card, "root", None) for card in pair.client.models.list()}
    assert cards == {engine.name: None, "usual": engine.name, other_engine.name: None}
    with pytest.raises(openai.NotFoundError, match=rf"only '{engine.name}' and '{other_engine.name}'"):
        pair.client.models.retrieve("none")
    with pytest.raises(openai.NotFoundError, match=f"'usual' or '{other_engine.name}'"):
        said(pair, "none")
    metrics = pair.app._metrics.text().decode()
    assert all(f'skd_info{{model="{name}"' in metrics for name in (engine.name, other_engine.name))
    assert f"skd_load_seconds {engine.load_seconds + other_engine.load_seconds}" in metrics


def test_one_request_is_answered_at_a_time(pair, engine, other_engine, gate):
    """Whichever model it is for."""
    first, answers = in_background(said, pair, engine.name)
    gate.wait_for_a_step()
    second, others = in_background(said, pair, other_engine.name)
    wait_in_queue(pair, 1)
    assert others == []
    gate.allow()
    first.join(PATIENCE)
    second.join(PATIENCE)
    assert answers[0] != others[0] != ""


def test_several_by_the_command_line(shelf, tmp_path):
    """Two folders of one name are called by what was typed."""
    for run in ("a", "b"):
        shutil.copytree(shelf.export("gguf", "f16"), tmp_path / run / "student")
    manifest = tmp_path / "b" / "student" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    command = [sys.executable, "-m", "switchkd.cli", "serve", "a/student", "b/student", "--port", "0", "--threads", "1"]
    command += ["--alias", "usual", "--alias", "b/student=newer"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        names, _, url = process.stdout.readline().strip().partition(" answer at ")
        assert names == "a/student and b/student"
        assert process.stdout.readline() == f"chat page: {url.removesuffix('v1')}\n"
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE)
        digests = {run: file_sha256(tmp_path / run / "student" / "manifest.json") for run in ("a", "b")}
        cards = [(card.id, getattr(card, "root", card.id), card.manifest_sha256) for card in client.models.list()]
        assert cards == [
            ("a/student", "a/student", digests["a"]),
            ("usual", "a/student", digests["a"]),
            ("b/student", "b/student", digests["b"]),
            ("newer", "b/student", digests["b"]),
        ]
        assert {client.chat.completions.create(model=card[0], messages=HELLO).model for card in cards} == {
            card[0] for card in cards
        }
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a/student", "a/student"), "Two variants would be called a/student"),
        (("a/student", "a/other", "--alias", "other"), "Two variants would be called other"),
        (("a/student", "a/other", "--alias", "x=y"), "no variant is called x; there is student and other"),
        (("a/student", "a/none"), "There is no variant a/none"),
    ],
)
def test_names_that_do_not_tell_variants_apart(tmp_path, monkeypatch, words, message):
    """Told before anything is loaded: these folders are empty."""
    monkeypatch.chdir(tmp_path)
    for name in ("student", "other"):
        (tmp_path / "a" / name).mkdir(parents=True)
    result = CliRunner().invoke(main, ["serve", *words, "--port", "0"])
    assert result.exit_code == 1 and message in result.output and len(result.output.splitlines()) == 1
