"""Installing survives an end at any moment: the power's, or the process's."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import packages

from switchkd.errors import SkdError
from switchkd.runtime.packages import install
from switchkd.runtime.packages.format import PackageError
from switchkd.runtime.packages.install import Installation
from switchkd.runtime.packages.reader import verify_folder


class PowerCut(BaseException):
    """Ends an install where no handler cleans up."""


class Disk:
    """Cuts the power before the N-th step that changes the disk, and forgets file contents that weren't flushed by then.

    That is what a disk may do at worst with contents; names are flushed by fsync of their folder, which `names` records.
    """

    def __init__(self, monkeypatch, cut: int | None) -> None:
        self.steps, self._cut = 0, cut
        self.unflushed: set[Path] = set()
        self.log: list[str] = []
        for owner, name in (
            (os, "fsync"),
            (Path, "rename"),
            (Path, "replace"),
            (Path, "symlink_to"),
            (Path, "mkdir"),
            (Path, "unlink"),
            (install, "exchange"),
        ):
            monkeypatch.setattr(owner, name, self._watched(name, getattr(owner, name)))
        monkeypatch.setattr(shutil, "rmtree", self._watched("rmtree", shutil.rmtree))
        opened = Path.open

        def open_and_note(path, mode="r", *args, **options):
            stream = opened(path, mode, *args, **options)
            if "x" in mode:
                self.unflushed.add(path)
            return stream

        monkeypatch.setattr(Path, "open", open_and_note)

    def _watched(self, name, real):
        def step(target, *args, **options):
            if self.steps == self._cut:
                raise PowerCut
            self.steps += 1
            place = Path(f"/proc/self/fd/{target}").readlink() if name == "fsync" else Path(target)
            result = real(target, *args, **options)
            if name == "fsync":
                self.unflushed.discard(place)
            if name in ("rename", "exchange"):  # files keep what they lack under their new name
                self.unflushed = {Path(str(each).replace(str(place), str(args[0]))) for each in self.unflushed}
            self.log.append(f"{name} {place.name}")
            return result

        return step

    def forget(self) -> None:
        for path in self.unflushed:
            if path.exists():
                path.write_bytes(b"")


def cut_power(device: Installation, package: Path, key, cut: int | None, **options: int) -> Disk:
    return cut_amid(lambda: device.install(package, [key], **options), cut)


def cut_amid(work: Callable[[], object], cut: int | None) -> Disk:
    with pytest.MonkeyPatch.context() as monkeypatch:
        disk = Disk(monkeypatch, cut)
        try:
            work()
        except PowerCut:
            monkeypatch.setattr(disk, "_cut", None)
    disk.forget()
    return disk


def copies_of(device: Installation, folder: Path) -> Iterator[Installation]:
    return (Installation(Path(shutil.copytree(device.folder, folder / str(n), symlinks=True))) for n in range(999))


def test_a_power_cut_before_every_step(device, shipped, keys, tmp_path):
    """Old or new, and whole; the next install ends well and leaves nothing over."""
    device.install(shipped[2], [keys[1]])
    total = cut_power(
        Installation(Path(shutil.copytree(device.folder, tmp_path / "all", symlinks=True))), shipped[3], keys[1], None
    ).steps
    assert total > 20
    seen = set()
    for cut in range(total):
        copy = Installation(Path(shutil.copytree(device.folder, tmp_path / f"cut{cut}", symlinks=True)))
        cut_power(copy, shipped[3], keys[1], cut)
        current = verify_folder(copy.folder / "current", [keys[1]]).targets.release
        seen.add(current)
        assert current == copy.current
        back = Installation(Path(shutil.copytree(copy.folder, tmp_path / f"back{cut}", symlinks=True)))
        assert back.roll_back([keys[1]]).targets.release == current - 1, cut
        copy.install(shipped[3], [keys[1]])
        assert packages.links(copy)[::2] == (3, {"2", "3"}) and copy.previous == 2, cut
        assert not list(copy.folder.glob(".partial*"))
    assert seen == {2, 3}


@pytest.mark.parametrize("used", [True, False])
def test_a_power_cut_while_a_damaged_release_is_replaced(used, device, shipped, keys, tmp_path):
    """Its number stays taken, so no older package passes; one in use is damaged as before, or whole."""
    device.install(shipped[3], [keys[1]])
    if not used:
        device.roll_back([keys[1]])
    (device.folder / "releases" / "3" / "target.json").write_bytes(b"x")
    copies = (Installation(Path(shutil.copytree(device.folder, tmp_path / str(n), symlinks=True))) for n in range(99))
    total = cut_power(next(copies), shipped[3], keys[1], None).steps
    assert total > 10
    for cut, copy in zip(range(total), copies, strict=False):
        cut_power(copy, shipped[3], keys[1], cut)
        assert copy.highest == 3 and (copy.folder / "current" / "run").is_file(), cut
        with pytest.raises(PackageError, match="older than release 3"):
            copy.install(shipped[2], [keys[1]])
        copy.install(shipped[3], [keys[1]])
        assert verify_folder(copy.folder / "current", [keys[1]]).targets.release == 3
        assert packages.links(copy) == (3, 1, {"1", "3"})


@pytest.mark.parametrize("to", [None, 2, 1])
def test_a_power_cut_while_going_back(to, device, shipped, keys, tmp_path):
    """From where it was or where it was to go, both whole, the way still leads down, and the counter stays."""
    for release in (2, 3, 4):
        device.install(shipped[release], [keys[1]], keep=4)
    copies = copies_of(device, tmp_path)
    whole = next(copies)
    total = cut_amid(lambda: whole.roll_back([keys[1]], to=to), None).steps
    wanted, seen = to or 3, set()
    assert total > 3 and whole.current == wanted
    for cut, copy in zip(range(total), copies, strict=False):
        cut_amid(lambda: copy.roll_back([keys[1]], to=to), cut)  # noqa: B023
        seen.add(copy.current)
        assert verify_folder(copy.folder / "current", [keys[1]]).targets.release == copy.current
        assert copy.highest == 4 and all(each < copy.current for each in copy.way_back), cut
        if copy.current > 1:
            assert copy.roll_back([keys[1]]).targets.release == copy.current == next(iter(copy.way_back), 0) + 1, cut
        copy.install(shipped[4], [keys[1]])
        assert copy.current == 4 and not list(copy.folder.glob(".partial*"))
    assert seen == {4, wanted}


def test_a_power_cut_while_more_are_kept(device, shipped, keys, tmp_path):
    """Whatever going back leads to is whole: one that is removed has lost its name before."""
    for release in (2, 3):
        device.install(shipped[release], [keys[1]], keep=3)
    copies = copies_of(device, tmp_path)
    whole = next(copies)
    total = cut_power(whole, shipped[4], keys[1], None, keep=3).steps
    assert packages.links(whole) == (4, 3, {"2", "3", "4"})
    for cut, copy in zip(range(total), copies, strict=False):
        cut_power(copy, shipped[4], keys[1], cut, keep=3)
        assert copy.current in (3, 4)
        for release in (copy.current, *copy.way_back):
            assert verify_folder(copy.path(release), [keys[1]]).targets.release == release, cut
        assert len(copy.way_back) >= 2
        copy.install(shipped[4], [keys[1]], keep=3)
        assert packages.links(copy) == (4, 3, {"2", "3", "4"}) and not list(copy.folder.rglob(".partial*")), cut


def test_a_power_cut_while_a_hook_fails_and_the_switch_is_undone(device, shipped, keys, tmp_path):
    device.install(shipped[2], [keys[1]])
    told: list[int] = []

    def fail(release: int) -> None:
        told.append(release)
        if release == 3:
            raise SkdError("no")

    def install(copy: Installation) -> None:
        with suppress(SkdError):
            copy.install(shipped[3], [keys[1]], hook=fail)

    copies = copies_of(device, tmp_path)
    whole = next(copies)
    total = cut_amid(lambda: install(whole), None).steps
    assert told == [3, 2] and packages.links(whole) == (2, 1, {"1", "2", "3"})
    for cut, copy in zip(range(total), copies, strict=False):
        cut_amid(lambda: install(copy), cut)  # noqa: B023
        assert copy.current == verify_folder(copy.folder / "current", [keys[1]]).targets.release, cut
        assert copy.current in (2, 3) and copy.roll_back([keys[1]]).targets.release == copy.current
        copy.install(shipped[3], [keys[1]])
        assert packages.links(copy)[0] == 3 and not list(copy.folder.glob(".partial*"))


def test_a_power_cut_while_it_is_asked_or_refused(device, shipped, keys, tmp_path):
    """What is refused has no number, so the counter stays where it was; what is asked has been flushed."""
    disk_log: list[str] = []

    def refuse(folder: Path) -> None:
        assert folder.name.startswith(".partial-") and verify_folder(folder, [keys[1]])
        disk_log.append(folder.name)
        raise SkdError("no")

    def install(copy: Installation) -> None:
        with suppress(SkdError):
            copy.install(shipped[2], [keys[1]], check=refuse)

    copies = copies_of(device, tmp_path)
    whole = next(copies)
    disk = cut_amid(lambda: install(whole), None)
    assert disk_log and not disk.unflushed
    assert packages.tree(whole.folder) == packages.tree(device.folder)
    for cut, copy in zip(range(disk.steps), copies, strict=False):
        cut_amid(lambda: install(copy), cut)  # noqa: B023
        assert (copy.current, copy.highest) == (1, 1), cut
        copy.install(shipped[1], [keys[1]])
        assert packages.tree(copy.folder) == packages.tree(device.folder)


def test_everything_is_flushed_before_the_switch(device, shipped, keys):
    disk = cut_power(device, shipped[2], keys[1], None)
    named, switched = (
        disk.log.index("rename " + next(e.split()[1] for e in disk.log if "rename .partial" in e)),
        disk.log.index("replace .partial-current"),
    )
    flushed = {entry.removeprefix("fsync ") for entry in disk.log[:named] if entry.startswith("fsync")}
    assert {Path(name).name for name in packages.files()} | {
        "targets.json",
        "targets.json.sig",
        "variant",
        "onnx",
    } <= flushed
    assert "fsync releases" in disk.log[named:switched] and not disk.unflushed


def test_killed_at_random_moments(keys, tmp_path):
    """A real process; old or new, and whole every time. What is left over is gone after the next install."""
    large = {}
    for release in (1, 2):
        contents = packages.files(release, a=6_000_000, b=3_000_000)
        large[release] = packages.write(tmp_path / f"{release}.tar", keys[0], contents, release=release)
    device = Installation(tmp_path / "start")
    device.install(large[1], [keys[1]])
    rng = random.Random(0)
    with packages.Installer(large[2], keys[2]) as installer:
        seconds = installer.seconds(device.folder, tmp_path / "whole")
        for _ in range(10):
            copy = Installation(Path(shutil.copytree(device.folder, tmp_path / "copy", symlinks=True)))
            installer.install(copy.folder, killed_after=rng.uniform(0, seconds))
            assert verify_folder(copy.folder / "current", [keys[1]]).targets.release == copy.current
            copy.install(large[2], [keys[1]])
            assert packages.links(copy) == (2, 1, {"1", "2"}) and not any(copy.folder.rglob(".partial-*"))
            shutil.rmtree(copy.folder)
