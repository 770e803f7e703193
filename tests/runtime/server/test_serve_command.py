"""`skd serve` as a process: what it prints, how it ends, what it says where it can't begin."""

import signal
import socket
import subprocess
import sys

import openai
import pytest
from click.testing import CliRunner
from support.serving import PATIENCE, about, data_url

from switchkd.cli.main import main
from switchkd.errors import SkdError
from switchkd.runtime.server.serve import listening


def test_sigterm_lets_answers_end(student):
    command = [sys.executable, "-m", "switchkd.cli", "serve", str(student), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        name, _, url = process.stdout.readline().partition(" answers at ")
        assert name == "student"
        client = openai.OpenAI(base_url=url.strip(), api_key="none", max_retries=0, timeout=PATIENCE)
        stream = client.chat.completions.create(
            model=name, messages=about(data_url(3)), max_tokens=400, stop="never said", stream=True
        )
        chunks = [next(iter(stream))]
        process.send_signal(signal.SIGTERM)
        chunks += stream
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""
    with pytest.raises(openai.APIConnectionError):
        client.models.list()


def test_a_port_that_is_taken(student):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["serve", str(student), "--port", str(port), "--threads", "1"])
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1
    assert f"127.0.0.1 port {port} can't be listened on" in result.output


@pytest.mark.parametrize("option", ["--timeout", "--upload-timeout", "--max-request-mb", "--max-megapixels"])
@pytest.mark.parametrize("number", ["inf", "nan", "1e305", "-1", "0"])
def test_numbers_that_are_none(option, number):
    result = CliRunner().invoke(main, ["serve", "nothing", option, number])
    assert result.exit_code == 2 and f"Invalid value for '{option}'" in result.output


def test_hosts_that_are_none():
    for host in ("x..y", "a" * 70, "no such host"):
        with pytest.raises(SkdError, match=r"can't be listened on: .*--host") as error, listening(host, 0):
            pass
        assert "\n" not in str(error.value)


def test_a_missing_extra_is_named():
    code = """
import sys
sys.modules["uvicorn"] = None
from switchkd.cli.main import main
main(["serve", "nothing"])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "pip install 'switchkd[serve]'" in result.stderr
