"""What `skd status` tells: releases, processes that run from them, checks, the way back."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from switchkd.cli.main import main
from switchkd.runtime.packages.checks import FILE
from switchkd.runtime.packages.status import Status
from switchkd.runtime.packages.usage import Usage, in_use, users

# Holds a release as an engine does, tells so, and ends when its input does.
HOLDER = """
import sys
from pathlib import Path
from switchkd.runtime.packages.usage import Usage
usage = Usage(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def skd(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == status, result.output
    return result.output


def state(folder: Path) -> dict:
    return json.loads(skd("status", folder, "--json"))


def test_releases_and_the_way_back(device, shipped, keys):
    for release in (2, 3):
        device.install(shipped[release], [keys[1]], keep=3)
    found = state(device.folder)
    assert (found["current"], found["highest"], found["rollback"]) == (3, 3, [2, 1])
    assert [each["release"] for each in found["releases"]] == [3, 2, 1]
    device.roll_back([keys[1]])
    found = state(device.folder)
    assert (found["current"], found["highest"], found["rollback"], found["running"]) == (2, 3, [1], [])
    newest = found["releases"][0]
    listed = json.loads((device.folder / "releases" / "3" / "targets.json").read_text())
    assert newest["name"] == listed["name"] and newest["target"] == listed["hardware_id"] == "board"
    assert newest["manifest_sha256"] == listed["targets"]["variant/manifest.json"]["hashes"]["sha256"]
    assert "rollback      release 1" in skd("status", device.folder)
    device.roll_back([keys[1]])
    assert state(device.folder)["rollback"] == [] and "impossible" in skd("status", device.folder)


def test_a_process_that_runs_is_seen_as_long_as_it_lives(device, shipped, keys):
    """Also when it is killed, which leaves nothing that could be believed."""
    variant = device.folder / "current" / "variant"
    with subprocess.Popen([sys.executable, "-c", HOLDER, variant], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout.readline() == "held\n"
        device.install(shipped[2], [keys[1]])
        found = state(device.folder)
        assert (found["current"], found["running"]) == (2, [1])
        assert found["releases"][1]["processes"] in ([process.pid], [])  # some file systems have two numbers
        assert f"running       release 1 (process {process.pid})" in skd("status", device.folder) or not users(
            device.folder / "releases" / "1"
        )
        device.install(shipped[3], [keys[1]])
        assert device.numbers == {1, 2, 3}  # what runs isn't removed
        process.kill()
    assert state(device.folder)["running"] == []
    device.install(shipped[4], [keys[1]])
    assert device.numbers == {3, 4}


def test_those_who_look_are_no_users(device):
    release = device.folder / "releases" / "1"
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(any(in_use(release) for _ in range(300)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [False] * 4
    first, second = Usage(release / "variant"), Usage(release / "variant")
    assert in_use(release)
    second.close()
    assert in_use(release)
    first.close()
    assert not in_use(release)


def test_nobody_can_keep_a_process_from_being_seen(device):
    release = device.folder / "releases" / "1"
    descriptor = os.open(release, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    usage = Usage(release / "variant")
    assert in_use(release)
    usage.close()
    assert not in_use(release)
    os.close(descriptor)


def test_other_folders_are_never_noted(tmp_path, device):
    for folder in (tmp_path, device.folder / "releases", tmp_path / "nothing"):
        assert Usage(folder)._descriptor is None


def test_the_last_check(device, keys):
    def check():
        return state(device.folder)["releases"][0]["last_check"]

    current, key = device.folder / "current", ("--key", keys[2])
    assert check() is None and "last check    never" in skd("status", device.folder)
    skd("verify", current, *key)
    assert check()["right"] and check()["refused"] is None
    assert "for board, not for bike" in skd("verify", current, *key, "--target", "bike", status=1)
    assert "for board, not for bike" in check()["refused"] and not check()["right"]
    skd("verify", device.folder / "releases" / "1", *key)
    assert check()["right"]
    (current / "targets.json").write_bytes((current / "targets.json").read_bytes() + b" ")
    found = state(device.folder)["releases"][0]
    assert found["last_check"] is None and found["name"] is None  # another content than was checked
    assert "its targets.json can't be read" in skd("status", device.folder)
    skd("verify", current, *key, status=1)
    assert "isn't what was signed" in check()["refused"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"1": {}}', '{"x": 1}', '{"1": {"time": 1, "refused": 2, "targets_sha256": 3}}']
)
def test_a_torn_note_is_none(device, keys, content):
    (device.folder / FILE).write_text(content)
    assert state(device.folder)["releases"][0]["last_check"] is None
    skd("verify", device.folder / "current", "--key", keys[2])
    assert state(device.folder)["releases"][0]["last_check"]["right"]


def test_a_note_through_a_link_goes_nowhere_else(device, keys, tmp_path):
    (tmp_path / "other").write_text("mine")
    (device.folder / FILE).symlink_to(tmp_path / "other")
    skd("verify", device.folder / "current", "--key", keys[2])
    assert (tmp_path / "other").read_text() == "mine" and not (device.folder / FILE).is_symlink()


def test_a_folder_that_cant_be_written_is_checked_all_the_same(device, keys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert "isn't noted" in skd("verify", device.folder / "current", "--key", keys[2])


def test_nothing_is_changed_and_little_is_loaded(device):
    code = """
import sys
from click.testing import CliRunner
from switchkd.cli.main import main
assert CliRunner().invoke(main, ["status", sys.argv[1]]).exit_code == 0
print(*{name.partition(".")[0] for name in sys.modules} & {"torch", "numpy", "onnxruntime", "securesystemslib", "PIL"})
"""
    before = {path: path.lstat().st_mtime_ns for path in device.folder.rglob("*")}
    result = subprocess.run([sys.executable, "-c", code, device.folder], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
    assert {path: path.lstat().st_mtime_ns for path in device.folder.rglob("*")} == before


def test_no_installation(tmp_path):
    assert "holds no installed release" in skd("status", tmp_path, status=1)
    (tmp_path / "releases").mkdir()
    assert "holds no installed release" in skd("status", tmp_path, status=1)


def test_nothing_in_use(device):
    (device.folder / "current").unlink()
    assert Status.of(device.folder).current is None and "in use        nothing" in skd("status", device.folder)
