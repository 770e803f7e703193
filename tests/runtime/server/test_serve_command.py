"""`skd serve` as a process: what it prints, how it ends, what it says where it can't begin."""

import errno
import re
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
        log = process.stderr.read()
        assert re.fullmatch(r"[\d-]+T[\d:]+Z 200 student read=\d+ said=\d+ ms=\d+\n", log), log
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


# `skd serve`, to which a signal comes at a certain moment.
AT = """
import os, signal, sys
import click
from switchkd.cli.main import main
number, moment, student = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def now(function):
    def first(*arguments, **options):
        os.kill(os.getpid(), number)
        return function(*arguments, **options)
    return first
if moment == "listening":
    click.echo = now(click.echo)
elif moment == "loading":
    from switchkd.runtime.engines import opening as variants
    variants.find_variant = now(variants.find_variant)
elif moment == "closing":
    from switchkd.runtime.server.app import ChatApp
    click.echo = now(click.echo)
    ChatApp.close = now(ChatApp.close)
main(["serve", student, "--port", "0", "--threads", "1"])
"""


@pytest.mark.parametrize("moment", ["loading", "listening", "closing"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_moment_is_no_error(student, number, moment):
    process = subprocess.run(
        [sys.executable, "-c", AT, str(int(number)), moment, str(student)],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (process.returncode, process.stderr) == (0, ""), process.stderr
    assert bool(process.stdout) == (moment != "loading")


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "::", "127.0.0.1", "::1"])
def test_addresses_of_both_families(host):
    """A client may try either first."""
    if not socket.has_ipv6:
        pytest.skip("this computer has one family alone")
    with listening(host, 0) as listeners:
        port = listeners[0].getsockname()[1]
        answered = set()
        for address in ("127.0.0.1", "::1"):
            try:
                socket.create_connection((address, port), PATIENCE).close()
                answered.add(address)
            except OSError:
                pass
    assert answered == ({host} if host[0] in "1:" and host != "::" else {"127.0.0.1", "::1"})


def test_a_name_of_which_one_address_is_taken():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SkdError, match=f"localhost port {port} can't be listened on"), listening("localhost", port):
            pass


def test_a_family_that_this_computer_lacks(monkeypatch):
    """Its addresses are left out; where there are no others, that is the reason."""
    made = socket.socket

    def without(family=-1, *rest, **options):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *rest, **options)

    monkeypatch.setattr(socket, "socket", without)
    with listening("localhost", 0) as listeners:
        assert [listener.getsockname()[0] for listener in listeners] == ["127.0.0.1"]
    with pytest.raises(SkdError, match="Address family not supported"), listening("::1", 0):
        pass
