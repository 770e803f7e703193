"""Chromium without a window, driven over a pipe: https://chromedevtools.github.io/devtools-protocol/."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60  # seconds until a test that waits in vain fails
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")
# A camera that shows a drawing, and is allowed without asking.
_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40}
_SHIFT = 8  # bit of the protocol's `modifiers`


class Browser:
    """One page of a browser.

    Args:
        commands, answers: file descriptors of the browser's pipe.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._rest, self._count = b"", 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []  # that the page has told so far
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result."""
        self._count += 1
        session = {} if self._session is None else {"sessionId": self._session}
        command = {"id": self._count, "method": method, "params": parameters, **session}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._next()).get("id") != self._count:
            self.events.append(message)
        assert "error" not in message, (method, message["error"])
        return message["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], PATIENCE)[0], "the browser says nothing"
            piece = os.read(self._answers, 1 << 20)
            assert piece, "the browser has ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> None:
        """Shows a page and waits until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """An expression's value in the page, a promise's when it is there."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression is true; looked at with each frame."""
        self.run(
            f"new Promise((done) => {{ const look = () => ({condition}) ? done() : requestAnimationFrame(look); look(); }})"
        )

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key, down and up."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        code = {"windowsVirtualKeyCode": _KEYS[key], "key": key, "code": "Space" if key == " " else key}
        common = {**code, "modifiers": _SHIFT if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, text: str) -> None:
        """Types into what has the focus."""
        self.call("Input.insertText", text=text)

    def choose_file(self, selector: str, path: Path) -> None:
        """What a person does in the dialog of an input for files."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def look(self, width: int, height: int = 800, *, dark: bool = False) -> None:
        """The window's size in pixels, and the system's colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def photograph(self, path: Path) -> None:
        """What the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def told(self, method: str) -> list[dict[str, Any]]:
        """What the events of this name say."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def errors(self) -> list[str]:
        """What the console has of errors and warnings, and what wasn't caught."""
        entries = [each["entry"] for each in self.told("Log.entryAdded")]
        logged = [entry["text"] for entry in entries if entry["level"] in ("error", "warning")]
        called = [
            str(each["args"]) for each in self.told("Runtime.consoleAPICalled") if each["type"] in ("error", "warning")
        ]
        return [*logged, *called, *(str(each["exceptionDetails"]) for each in self.told("Runtime.exceptionThrown"))]

    def asked(self) -> list[str]:
        """Addresses that were asked for."""
        return [each["request"]["url"] for each in self.told("Network.requestWillBeSent")]


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser of its own; the test is skipped where none is installed.

    Args:
        folder: empty, for what the browser keeps.
    """
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    (to_browser, commands), (answers, from_browser) = os.pipe(), os.pipe()
    # Above 3 and 4, which are the pipe's in the browser.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (to_browser, from_browser)]
    actions = [
        (os.POSIX_SPAWN_DUP2, ends[0], 3),
        (os.POSIX_SPAWN_DUP2, ends[1], 4),
        (os.POSIX_SPAWN_OPEN, 2, str(folder / "log"), os.O_WRONLY | os.O_CREAT, 0o600),
    ]
    arguments = [program, *_OPTIONS, *_CAMERA, f"--user-data-dir={folder / 'profile'}"]
    process = os.posix_spawn(program, arguments, os.environ, file_actions=actions)
    for end in (to_browser, from_browser, *ends):
        os.close(end)
    try:
        browser = Browser(commands, answers)
        yield browser
        browser._session = None
        browser.call("Browser.close")
    finally:
        os.close(commands)  # ends it, too
        os.close(answers)
        os.waitpid(process, 0)
