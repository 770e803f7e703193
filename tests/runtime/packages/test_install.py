"""Installing: switching, going back, refusing."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support import packages
from support.mounts import layers, with_mounts

from switchkd.errors import SkdError
from switchkd.runtime.packages import exchange, install
from switchkd.runtime.packages.format import PackageError
from switchkd.runtime.packages.install import Installation, installed_release
from switchkd.runtime.packages.reader import verify_folder


def test_files_arrive_as_they_were_sent(device):
    folder = device.folder / "current"
    contents = {name: content for name, content in packages.tree(folder.resolve()).items() if content is not None}
    assert {name: contents[name] for name in packages.files(1)} == packages.files(1)
    assert set(contents) - set(packages.files(1)) == {"targets.json", "targets.json.sig"}
    assert folder.readlink() == Path("releases/1")
    assert (folder / "run").stat().st_mode & 0o777 == 0o755 and (folder / "target.json").stat().st_mode & 0o777 == 0o644
    assert subprocess.run([folder / "run"], capture_output=True, text=True, check=True).stdout == "hello\n"


def test_the_next_release_the_one_before_and_no_more(device, shipped, keys):
    done = device.install(shipped[2], [keys[1]])
    assert (done.before, done.targets.release) == (1, 2) and packages.links(device) == (2, 1, {"1", "2"})
    device.install(shipped[3], [keys[1]])
    assert packages.links(device) == (3, 2, {"2", "3"})
    assert installed_release(device.folder) == 3


def test_downgrades_are_refused(device, shipped, keys):
    device.install(shipped[3], [keys[1]])
    before = packages.tree(device.folder)
    with pytest.raises(PackageError, match="release 2, older than release 3"):
        device.install(shipped[2], [keys[1]])
    assert packages.tree(device.folder) == before


def test_there_and_back(device, shipped, keys):
    with pytest.raises(SkdError, match="no release before 1"):
        device.roll_back([keys[1]])
    device.install(shipped[2], [keys[1]])
    done = device.roll_back([keys[1]])
    assert (done.before, done.targets.release) == (2, 1) and packages.links(device) == (1, None, {"1", "2"})
    with pytest.raises(SkdError, match="no release before 1"):
        device.roll_back([keys[1]])


def test_going_back_doesnt_open_the_door_to_older_releases(device, shipped, keys):
    device.install(shipped[3], [keys[1]])
    device.roll_back([keys[1]])
    with pytest.raises(PackageError, match="older than release 3"):
        device.install(shipped[2], [keys[1]])
    device.install(shipped[3], [keys[1]])
    assert packages.links(device) == (3, 1, {"1", "3"})
    device.roll_back([keys[1]])
    device.install(shipped[4], [keys[1]])
    assert packages.links(device) == (4, 1, {"1", "4"})


def test_going_back_to_a_damaged_release_is_refused(device, shipped, keys):
    device.install(shipped[2], [keys[1]])
    (device.folder / "releases" / "1" / "target.json").write_text("x")
    with pytest.raises(PackageError, match=r"target\.json isn't as long"):
        device.roll_back([keys[1]])
    assert device.current == 2


def test_the_same_again(device, shipped, keys):
    before = packages.tree(device.folder)
    assert device.install(shipped[1], [keys[1]]).before == 1
    assert packages.tree(device.folder) == before


def test_the_same_number_for_something_else(device, keys, tmp_path):
    other = packages.write(tmp_path / "other.tar", keys[0], packages.files(99), release=1)
    with pytest.raises(SkdError, match="other contents"):
        device.install(other, [keys[1]])


def test_a_damaged_release_is_replaced(device, shipped, keys):
    """Also one that is in use, and one whose permissions alone changed."""
    run = device.folder / "releases" / "1" / "run"
    for damage in (run.unlink, lambda: run.chmod(0o600), lambda: run.parent.chmod(0o777)):
        damage()
        with pytest.raises(PackageError):
            verify_folder(device.folder / "current", [keys[1]])
        assert device.install(shipped[1], [keys[1]]).written and packages.links(device) == (1, None, {"1"})
        assert verify_folder(device.folder / "current", [keys[1]]).targets.release == 1
    assert not device.install(shipped[1], [keys[1]]).written


def test_where_folders_cant_be_exchanged(device, shipped, keys, monkeypatch):
    """The file system of another system; this one's always can."""
    (device.folder / "releases" / "1" / "run").unlink()
    before = packages.tree(device.folder)
    with monkeypatch.context() as patch:
        patch.setattr(exchange.ctypes, "CDLL", lambda *_, **__: None)
        with pytest.raises(SkdError, match=r"is damaged, and can't be exchanged .*move it away, then install again"):
            device.install(shipped[1], [keys[1]])
    assert packages.tree(device.folder) == before
    (device.folder / "releases" / "1").rename(device.folder / "away")
    device.install(shipped[1], [keys[1]])
    assert packages.links(device) == (1, None, {"1"})


def test_exchanging_names(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("b")
    exchange.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_text() == "b" and (tmp_path / "b").is_dir()
    with pytest.raises(FileNotFoundError):
        exchange.exchange(tmp_path / "a", tmp_path / "c")


def test_going_back_is_held_to_this_computer_and_the_folders_number(device, shipped, keys):
    device.install(shipped[2], [keys[1]])
    with pytest.raises(PackageError, match="for board, not for bike"):
        device.roll_back([keys[1]], hardware_id="bike")
    shutil.rmtree(device.folder / "releases" / "1")
    shutil.copytree(device.folder / "releases" / "2", device.folder / "releases" / "1")
    with pytest.raises(PackageError, match="1 holds release 2"):
        device.roll_back([keys[1]], hardware_id="board")
    assert device.current == 2


def test_another_computer(device, shipped, keys):
    with pytest.raises(PackageError, match="for board, not for bike"):
        device.install(shipped[2], [keys[1]], hardware_id="bike")
    assert device.install(shipped[2], [keys[1]], hardware_id="board").targets.release == 2


def test_a_broken_package_changes_nothing(device, shipped, keys, tmp_path):
    content = bytearray(shipped[2].read_bytes())
    content[-1500] ^= 1  # in the last file, when all others are written
    (tmp_path / "broken.tar").write_bytes(content)
    before = packages.tree(device.folder)
    with pytest.raises(PackageError):
        device.install(tmp_path / "broken.tar", [keys[1]])
    assert packages.tree(device.folder) == before


def test_a_package_that_changes_while_it_is_read(device, shipped, keys, tmp_path, monkeypatch):
    """Another file under the same name has no effect; another content in the same file is noticed."""
    copy = Path(shutil.copy(shipped[2], tmp_path / "copy.tar"))
    write, done = install._write, []

    def change_meanwhile(path, blocks, permissions):
        if not done:
            done.append(path)
            with copy.open("r+b") as stream:
                stream.seek(-1500, os.SEEK_END)
                stream.write(b"changed")
        write(path, blocks, permissions)

    monkeypatch.setattr(install, "_write", change_meanwhile)
    # A small file may have been read ahead into the buffer; then what is installed is what was signed.
    try:
        device.install(copy, [keys[1]])
    except PackageError:
        assert device.current == 1
    assert verify_folder(device.folder / "current", [keys[1]])


def test_a_full_disk(device, shipped, keys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(SkdError, match="MB free"):
        device.install(shipped[2], [keys[1]])
    assert packages.links(device) == (1, None, {"1"})


def test_one_at_a_time(device, shipped, keys):
    import fcntl

    with (device.folder / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SkdError, match="Another `skd install`"):
            device.install(shipped[2], [keys[1]])
        with pytest.raises(SkdError, match="Another `skd install`"):
            device.roll_back([keys[1]])
    device.install(shipped[2], [keys[1]])


def test_a_folder_of_something_else(tmp_path, shipped, keys):
    (tmp_path / "current").mkdir()
    with pytest.raises(SkdError, match="isn't the link that"):
        Installation(tmp_path).install(shipped[1], [keys[1]])
    (tmp_path / "file").write_text("x")
    with pytest.raises(SkdError, match="can't be written"):
        Installation(tmp_path / "file").install(shipped[1], [keys[1]])
    for call in (
        lambda: installed_release(tmp_path / "nowhere"),
        lambda: Installation(tmp_path / "nowhere").roll_back([keys[1]]),
    ):
        with pytest.raises(SkdError, match="holds no installed release"):
            call()
    assert not (tmp_path / "nowhere").exists()


def test_base_packages_are_enough(shipped, keys, tmp_path):
    """Neither torch nor an engine nor a building-side package is loaded by verify and install."""
    code = """
import sys
from click.testing import CliRunner
from switchkd.cli.main import main
package, device, key = sys.argv[1:]
for arguments in (["verify", package], ["install", package, device], ["verify", device + "/current", "--installed", device]):
    result = CliRunner().invoke(main, [*arguments, "--key", key])
    assert result.exit_code == 0, result.output
print(*{name.partition(".")[0] for name in sys.modules} & {
    "torch", "transformers", "onnxruntime", "llama_cpp", "cyclonedx", "packaging", "numpy", "PIL", "tokenizers"})
"""
    command = [sys.executable, "-c", code, shipped[1], tmp_path / "device", keys[2]]
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


def test_older_releases_out_of_a_lower_layer(device, shipped, keys, tmp_path):
    """As in a container's image: they can't be renamed, and are removed all the same."""
    device.install(shipped[2], [keys[1]])
    mount, merged = layers(device.folder)
    code = """
import sys
from pathlib import Path
from switchkd.runtime.packages.install import Installation
from switchkd.runtime.packages.signature import load_public_key
device = Installation(Path(sys.argv[1]))
for package in sys.argv[3:]:
    done = device.install(Path(package), [load_public_key(Path(sys.argv[2]))])
    print(done.targets.release, done.before, sorted(p.name for p in (device.folder / "releases").iterdir()))
"""
    process = with_mounts([mount], code, merged, keys[2], shipped[3], shipped[4], shipped[4])
    assert process.stdout.splitlines() == ["3 2 ['2', '3']", "4 3 ['3', '4']", "4 4 ['3', '4']"]


def test_a_file_system_that_flushes_no_folder(device, shipped, keys, monkeypatch):
    fsync = os.fsync

    def for_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", for_files)
    device.install(shipped[2], [keys[1]])
    assert packages.links(device) == (2, 1, {"1", "2"})
