"""What the server tells systemd: over a real datagram socket, from a real `skd serve`."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from support.serving import HELLO, PATIENCE, in_background, raw, running

from switchkd.runtime.server import app as server_app
from switchkd.runtime.server import serve
from switchkd.runtime.server.watchdog import _Watchdog, watched


@contextmanager
def manager(name: str):
    """The service manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        listener.settimeout(PATIENCE)
        yield listener


@pytest.mark.parametrize("abstract", [False, True])
def test_from_start_to_end(shelf, tmp_path, abstract):
    """Ready when it answers, alive as often as is wanted, stopping when it is told to end."""
    name = f"@skd-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    variant = shelf.export("gguf", "q8")
    command = [sys.executable, "-m", "switchkd.cli", "serve", str(variant), "--port", "0", "--threads", "1"]
    environment = {**os.environ, "NOTIFY_SOCKET": name, "WATCHDOG_USEC": "300000"}
    with manager(name) as listener, subprocess.Popen(command, stdout=-1, env=environment, text=True) as process:
        assert [listener.recv(99) for _ in range(4)] == [b"READY=1", *[b"WATCHDOG=1"] * 3]
        assert " answers at " in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        while (last := listener.recv(99)) == b"WATCHDOG=1":
            pass
        assert last == b"STOPPING=1" and process.wait(PATIENCE) == 0


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Sets what systemd says to a service; gives the socket's end."""
    with manager(str(tmp_path / "notify")) as listener:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()] and listener


@pytest.mark.parametrize("wanted", [{"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "90000", "WATCHDOG_PID": "1"}])
def test_signs_of_life_that_nobody_wants(asked, served, wanted):
    """Of no time, or of another process."""
    listener = asked(**wanted)
    with watched(served.url):
        assert listener.recv(99) == b"READY=1"
    assert listener.recv(99) == b"STOPPING=1"


def test_nothing_is_said_to_nobody(monkeypatch, served):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with watched(served.url):
        pass
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    with watched(served.url):
        pass


def lives(url: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        return _Watchdog(manager, "", url, 0.2)._answers()


def test_an_engine_that_hangs_is_no_life(engine, gate, monkeypatch):
    """And one that comes back is."""
    monkeypatch.setattr(server_app, "_STUCK_SECONDS", 0.0)
    with running(engine, request_seconds=0.2) as served:
        assert lives(served.url)
        hanging, _ = in_background(_status_of, served)
        hanging.join()  # 504: its time is up, and the engine is amid a step
        assert not lives(served.url)
        gate.allow()
        while served.app._queue.busy:
            pass
        assert lives(served.url)


def _status_of(served) -> None:
    with pytest.raises(Exception, match="took more than"):
        served.ask(HELLO)


def test_a_server_that_takes_connections_and_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not lives(f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
        gone = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
    assert not lives(gone)


def test_a_busy_server_lives(engine, served, monkeypatch):
    """Too many connections are no reason to end those that are served."""
    monkeypatch.setattr(serve, "CONNECTIONS", 1)
    with running(engine) as busy:
        status, _ = raw(busy, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status == 503 and lives(busy.url)
