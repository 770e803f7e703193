"""The systemd unit that `skd install --service` writes."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from switchkd.cli.main import main
from switchkd.runtime.packages.service import unit_path


def service(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, ["install", "--service", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


def read(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser()
    parser.optionxform = str
    parser.read_string(path.read_text())
    return {name: dict(parser[name]) for name in parser.sections()}


def test_what_it_says(device, tmp_path):
    """No key is needed; the port and the folder are those that were asked for."""
    path = tmp_path / "skd-student.service"
    assert f"systemctl enable --now {path.name}" in service(device.folder, "--unit", path, "--port", 8123)
    found = read(path)["Service"]
    assert found["ExecStart"] == f"{device.folder}/current/run serve --host 127.0.0.1 --port 8123"
    assert found["Type"] == "notify" and found["Restart"] == "on-failure" and found["WatchdogSec"] == "60"
    assert found["NoNewPrivileges"] == found["PrivateTmp"] == "yes" and found["ProtectSystem"] == "full"
    assert Path(found["Environment"].removeprefix("SKD=")).name == "skd"
    (device.folder / "runtime").mkdir()
    service(device.folder, "--unit", tmp_path / "own.service")
    assert "Environment" not in read(tmp_path / "own.service")["Service"]  # `run` finds the one beside the releases


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_accepts_it(device, tmp_path):
    path = tmp_path / "skd-student.service"
    service(device.folder, "--unit", path)
    result = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    path.write_text(path.read_text().replace("WatchdogSec=60", "WatchdogSec=sixty"))
    assert "sixty" in subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True).stderr


def test_one_that_is_there_is_left(device, tmp_path):
    path = tmp_path / "a.service"
    service(device.folder, "--unit", path)
    service(device.folder, "--unit", path)
    path.write_text("mine")
    assert "already there with other lines" in service(device.folder, "--unit", path, status=1)
    assert path.read_text() == "mine"


def test_where_it_cant_be_written_it_is_printed(device, tmp_path):
    path = tmp_path / "nowhere" / "a.service"
    shown = service(device.folder, "--unit", path)
    assert shown.startswith("[Unit]\n") and f"{path} can't be written" in shown.splitlines()[-1]


def test_what_is_refused(device, tmp_path):
    assert "No release is in use" in service(tmp_path, status=1)
    strange = device.folder.rename(tmp_path / 'a "b" $c %d')
    assert "can't stand in a unit" in service(strange, status=1)
    for arguments in ((device.folder, "more"), (device.folder, "--rollback"), (device.folder, "--to", 1)):
        service(*arguments, status=2)
    assert CliRunner().invoke(main, ["install", "a", "b", "--key", "k", "--unit", "u"]).exit_code == 2


def test_its_name_follows_the_folder():
    assert str(unit_path(Path("/opt/student"))) == "/etc/systemd/system/skd-student.service"
    assert unit_path(Path("/opt/a b")).name == "skd-a-b.service"
