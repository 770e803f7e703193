"""Names: of the folder, of the package that it was installed from, and others that requests may use; and the request log."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import openai
import pytest
from support.serving import HELLO, PATIENCE, about, data_url, post, running

from switchkd.files import file_sha256
from switchkd.runtime.packages.format import Entry, Targets
from switchkd.runtime.server.identity import Identity

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (\d{3}) (\S+) read=(\d+) said=(\d+) ms=\d+")


@pytest.fixture(scope="module")
def export(shelf):
    return shelf.export("gguf", "f16")


@pytest.fixture
def installed(export, tmp_path):
    """As `skd install` leaves it: releases/3/variant, targets.json beside it, and a link to the release."""
    release = tmp_path / "releases" / "3"
    shutil.copytree(export, release / "variant")
    manifest = release / "variant" / "manifest.json"
    files = {"variant/manifest.json": Entry(manifest.stat().st_size, file_sha256(manifest))}
    (release / "targets.json").write_bytes(Targets("road-student-q4", "jetson-orin-nano", 3, files).to_bytes())
    (tmp_path / "current").symlink_to("releases/3")
    return tmp_path / "current" / "variant"


def test_an_installed_model_keeps_its_name(export, installed):
    digest = file_sha256(export / "manifest.json")
    assert Identity.of(installed) == Identity("road-student-q4", 3, digest)
    assert Identity.of(export) == Identity(export.name, None, digest)
    (installed / "manifest.json").write_text((installed / "manifest.json").read_text() + "\n")
    assert (Identity.of(installed).name, Identity.of(installed).release) == ("variant", None)
    (installed.parent / "targets.json").write_text("{")
    assert Identity.of(installed).name == "variant"


def test_a_checkpoint_has_its_folders_name(student):
    assert Identity.of(student) == Identity("student")


def test_an_installed_model_is_served_by_its_names(installed):
    """By the command line, up to its end: SIGTERM ends an idle server soon."""
    command = [sys.executable, "-m", "switchkd.cli", "serve", str(installed), "--port", "0", "--threads", "1"]
    command += ["--alias", "gpt-4o", "--alias", "team/student", "--no-page"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        name, _, url = process.stdout.readline().strip().partition(" answers at ")
        assert name == "road-student-q4"
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE)
        names = [name, "gpt-4o", "team/student"]
        told = {"release": 3, "manifest_sha256": file_sha256(installed / "manifest.json")}
        cards = list(client.models.list())
        assert [card.id for card in cards] == names
        for card in (*cards, *map(client.models.retrieve, names)):
            assert {key: getattr(card, key) for key in told} == told
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/health", timeout=PATIENCE) as response:
            assert json.load(response) == {"status": "ok", "model": name, "waiting": 0, **told}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url.removesuffix("/v1"), timeout=PATIENCE)
        answers = [client.chat.completions.create(model=each, messages=HELLO, max_tokens=3) for each in names]
        assert [answer.model for answer in answers] == names
        with pytest.raises(openai.NotFoundError, match="gpt-4o"):
            client.chat.completions.create(model="variant", messages=HELLO)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert time.monotonic() - started < 2
        assert process.stdout.read() == ""  # no page, no address of one
        lines = [LINE.fullmatch(line).groups() for line in process.stderr.read().splitlines()]
    assert [line[:2] for line in lines] == [*(("200", each) for each in names), ("404", "-")]
    usage = answers[0].usage
    assert lines[0][2:] == (str(usage.prompt_tokens), str(usage.completion_tokens))


def test_an_idle_connection_does_not_hold_up_the_end(student):
    command = [sys.executable, "-m", "switchkd.cli", "serve", str(student), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip().partition(" answers at ")[2]
        port = int(url.removesuffix("/v1").rpartition(":")[2])
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE)
        client.models.list()  # its connection stays open
        with socket.create_connection(("127.0.0.1", port)):
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        assert time.monotonic() - started < 2


def test_each_request_is_a_line_of_the_log_without_its_content(engine, caplog):
    caplog.set_level("INFO", "skd.serve")
    with running(engine) as served:
        whole = served.ask(about(data_url(1), "what is secret ?")).usage
        list(served.ask(about(data_url(1)), stream=True))
        post(served, b"{")
        with pytest.raises(openai.NotFoundError):
            served.client.chat.completions.create(model="200 evil\n", messages=HELLO)
        with pytest.raises(openai.BadRequestError):
            served.ask(HELLO, n=50)
        for _ in range(2):
            served.ask([{"role": "user", "content": about(data_url(1))[0]["content"][::-1]}])
    lines = [match.groups() for line in caplog.messages if (match := LINE.fullmatch(line))]
    assert [line[:2] for line in lines] == [
        *[("200", "student")] * 2,
        *[("400", "-"), ("404", "-"), ("400", "-")],
        *[("200", "student")] * 2,
    ]
    assert lines[0][2:] == (str(whole.prompt_tokens), str(whole.completion_tokens))
    assert int(lines[1][3]) > 0
    others = [line for line in caplog.messages if not LINE.fullmatch(line)]
    assert len(others) == 1 and "words before its picture" in others[0]
    assert "secret" not in caplog.text and "evil" not in caplog.text
