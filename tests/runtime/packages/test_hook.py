"""What is run after a switch, and that a switch is undone where it fails."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from support import packages

from switchkd.cli.main import main
from switchkd.errors import SkdError
from switchkd.runtime.packages.format import PackageError
from switchkd.runtime.packages.hook import CommandHook


def install(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, ["install", *map(str, arguments)])
    assert result.exit_code == status, result.output
    if status == 1:
        assert result.output.count("\n") == 1
    return result.output


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def told(log: Path) -> list[str]:
    """What the hook was run for so far; forgotten then."""
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def hook(log: Path, failing: int = 0) -> tuple[str, str]:
    """Writes which release it was run for, and which is in use by then; fails for one."""
    seen = f'echo "$SKD_RELEASE $(readlink "$SKD_FOLDER/current")" >> {log}'
    return "--hook", f'{seen}; [ "$SKD_RELEASE" != {failing} ]'


def test_it_is_run_after_every_switch(device, shipped, keys, log):
    key = ("--key", keys[2])
    install(shipped[2], device.folder, *key, *hook(log))
    assert told(log) == ["2 releases/2"]
    install("--rollback", device.folder, *key, *hook(log))
    assert told(log) == ["1 releases/1"]
    install(shipped[2], device.folder, *key, *hook(log))
    assert told(log) == ["2 releases/2"]
    install(shipped[2], device.folder, *key, *hook(log))  # nothing has changed
    assert told(log) == []
    (device.folder / "current" / "run").unlink()
    install(shipped[2], device.folder, *key, *hook(log))  # in use, and another than before
    assert told(log) == ["2 releases/2"]


def test_never_for_what_is_refused(device, shipped, keys, log, tmp_path):
    device.install(shipped[2], [keys[1]])
    broken = tmp_path / "broken.tar"
    broken.write_bytes(shipped[3].read_bytes()[:-1500])
    key = ("--key", keys[2])
    for arguments in (
        (shipped[1], device.folder),
        (broken, device.folder),
        (shipped[3], device.folder, "--target", "bike"),
    ):
        install(*arguments, *key, *hook(log), status=1)
    install("--rollback", device.folder, *key, "--target", "bike", *hook(log), status=1)
    (device.folder / "releases" / "1" / "run").unlink()
    install("--rollback", device.folder, *key, *hook(log), status=1)
    assert told(log) == [] and packages.links(device) == (2, 1, {"1", "2"})


def test_a_failure_undoes_the_switch(device, shipped, keys, log):
    key = ("--key", keys[2])
    device.install(shipped[2], [keys[1]])
    error = install(shipped[3], device.folder, *key, *hook(log, failing=3), status=1)
    assert "ended with status 1. Release 3 was switched back: release 2 is in use again." in error
    assert told(log) == ["3 releases/3", "2 releases/2"] and packages.links(device) == (2, 1, {"1", "2", "3"})
    with pytest.raises(PackageError, match="older than release 3"):  # the counter stays
        device.install(shipped[2], [keys[1]])
    error = install("--rollback", device.folder, *key, *hook(log, failing=1), status=1)
    assert "Release 1 was switched back: release 2 is in use again." in error
    assert told(log) == ["1 releases/1", "2 releases/2"] and packages.links(device) == (2, 1, {"1", "2", "3"})
    install(shipped[3], device.folder, *key, *hook(log))
    assert packages.links(device) == (3, 2, {"2", "3"})


def test_a_failure_for_both(device, shipped, keys):
    error = install(shipped[2], device.folder, "--key", keys[2], "--hook", "kill -TERM $$", status=1)
    assert "was ended by SIGTERM" in error and "for it the hook failed as well" in error and device.current == 1


def test_a_failure_at_the_first_install(device, shipped, keys, tmp_path, log):
    folder, key = tmp_path / "new", ("--key", keys[2])
    assert "nothing is in use" in install(shipped[1], folder, *key, *hook(log, failing=1), status=1)
    assert told(log) == ["1 releases/1"] and not (folder / "current").is_symlink()
    assert "has no release to go back to" in install("--rollback", folder, *key, status=1)
    install(shipped[1], folder, *key, *hook(log))
    assert (folder / "current").readlink() == Path("releases/1")


def test_one_that_hangs_is_ended_with_all_that_it_started(device, tmp_path):
    fifo = tmp_path / "fifo"
    command = CommandHook(f"mkfifo {fifo}; cat {fifo} & wait", device.folder, seconds=0.3)
    with pytest.raises(SkdError, match=r"took more than 0\.3 s"):
        command(1)


def test_no_other_install_meanwhile(device, shipped, keys):
    def other(_: int) -> None:
        with pytest.raises(SkdError, match="Another `skd install`"):
            device.install(shipped[3], [keys[1]])

    device.install(shipped[2], [keys[1]], hook=other)
