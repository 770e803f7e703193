"""Going back further than one release, and what is kept for it."""

import random
import shutil

import pytest
from click.testing import CliRunner
from support import packages

from switchkd.cli.main import main
from switchkd.errors import SkdError
from switchkd.runtime.packages.format import PackageError
from switchkd.runtime.packages.install import Installation


@pytest.fixture
def deep(device, shipped, keys):
    """A folder with releases 1 to 4."""
    for release in (2, 3, 4):
        device.install(shipped[release], [keys[1]], keep=4)
    return device


def skd(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == status, result.output
    return result.output


def test_step_by_step(deep, keys):
    assert deep.way_back == [3, 2, 1]
    for wanted in (3, 2, 1):
        assert deep.roll_back([keys[1]]).targets.release == wanted == deep.current
    with pytest.raises(SkdError, match="no release before 1"):
        deep.roll_back([keys[1]])
    assert deep.highest == 4 and deep.numbers == {1, 2, 3, 4}


def test_to_a_certain_one(deep, keys, shipped):
    key = ("--key", keys[2])
    assert "release 2 of tiny for board, back from release 4" in skd(
        "install", "--rollback", deep.folder, *key, "--to", 2
    )
    assert deep.previous == 1 and deep.way_back == [1]
    for wrong in (2, 3, 4, 7, 0, -1):
        error = skd("install", "--rollback", deep.folder, *key, "--to", wrong, status=1)
        assert f"no way back from release 2 to {wrong}; {deep.folder} has 1." in error
    with pytest.raises(PackageError, match="older than release 4"):
        deep.install(shipped[3], [keys[1]])
    skd("install", shipped[4], deep.folder, *key, "--to", 2, status=2)


def test_a_damaged_one_is_gone_round_by_name(deep, keys):
    (deep.folder / "releases" / "3" / "run").unlink()
    with pytest.raises(PackageError):
        deep.roll_back([keys[1]])
    assert deep.roll_back([keys[1]], to=2).before == 4


def test_how_many_are_kept(device, shipped, keys, tmp_path):
    for keep in (2, 3, 4):
        copy = Installation(tmp_path / str(keep))
        shutil.copytree(device.folder, copy.folder, symlinks=True)
        for release in (2, 3, 4):
            skd("install", shipped[release], copy.folder, "--key", keys[2], "--keep", keep)
        assert copy.numbers == {4, 3, 2, 1} - set(range(1, 5 - keep))
    skd("install", shipped[4], device.folder, "--key", keys[2], "--keep", 1, status=2)


def test_one_that_was_gone_back_from_makes_room_first(device, shipped, keys):
    device.install(shipped[2], [keys[1]], keep=3)
    device.install(shipped[3], [keys[1]], keep=3)
    device.roll_back([keys[1]])
    device.install(shipped[4], [keys[1]], keep=3)
    assert packages.links(device) == (4, 2, {"4", "2", "1"})


def test_any_order_of_installs_and_ways_back(keys, shipped, tmp_path):
    """Against the rules, told in sets: what is in use, what is kept, and a counter that never falls."""
    rng = random.Random(3)
    for number in range(6):
        device, current, below, there, top = Installation(tmp_path / str(number)), None, [], set(), 0
        for _ in range(9):
            if rng.random() < 0.5 or current is None:
                release, keep = rng.choice([1, 2, 3, 4]), rng.choice([2, 3, 4])
                if release < top:
                    with pytest.raises(PackageError, match="older"):
                        device.install(shipped[release], [keys[1]], keep=keep)
                    continue
                device.install(shipped[release], [keys[1]], keep=keep)
                if release != current:
                    below = [] if current is None else [current, *(each for each in below)]
                current, top = release, release
                kept = {current, *below[: keep - 1], top}
                there, below = kept, [each for each in below if each in kept]
            elif below:
                current, *below = below
                assert device.roll_back([keys[1]]).targets.release == current
            else:
                with pytest.raises(SkdError, match="no release before"):
                    device.roll_back([keys[1]])
            assert (device.current, device.way_back, device.numbers) == (current, below, there)
            assert device.highest == top
