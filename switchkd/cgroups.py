"""Control groups: the limits that a container, or a service manager, has put on this process. Linux; standard library only.

A process is in a group of a tree, and every group above it limits it as well. Version 1 has a tree for each controller,
version 2 one for all; a computer may have both. Which folder shows a process's group, /proc/self/cgroup and the mounts tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_USUAL = PurePosixPath("/sys/fs/cgroup")
_UNLIMITED = 1 << 62  # bytes; version 1 writes nearly 2⁶³ where there is no limit


@dataclass(frozen=True)
class Group:
    """One control group that this process is in, directly or by one below it."""

    folder: Path
    version: int  # 1 or 2

    @property
    def processors(self) -> float | None:
        """Its quota in processors; None: no quota."""
        if self.version == 2:
            quota, _, period = read_text(self.folder / "cpu.max").strip().partition(" ")
        else:
            quota, period = (self._text(f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
            return None
        return int(quota) / int(period)

    @property
    def times_stopped(self) -> int | None:
        """How often its quota of processor time has run out; None: no quota."""
        return self._statistics("cpu.stat").get("nr_throttled")

    @property
    def memory_bytes(self) -> int | None:
        """Its limit; None: no limit."""
        limit = self._text("memory.max" if self.version == 2 else "memory.limit_in_bytes")
        return int(limit) if limit.isdecimal() and int(limit) < _UNLIMITED else None

    @property
    def free_bytes(self) -> int | None:
        """What is left of its limit, pages of files that nobody uses counted as free; None: no limit, or it doesn't tell."""
        limit = self.memory_bytes
        used = self._text("memory.current" if self.version == 2 else "memory.usage_in_bytes")
        if limit is None or not used.isdecimal():
            return None
        statistics = self._statistics("memory.stat")
        # Version 1 counts the groups below under this name alone.
        files = statistics.get("inactive_file" if self.version == 2 else "total_inactive_file", 0)
        return max(0, limit - int(used) + files)

    def _text(self, name: str) -> str:
        return read_text(self.folder / name).strip()

    def _statistics(self, name: str) -> dict[str, int]:
        entries = (line.split() for line in read_text(self.folder / name).splitlines())
        return {words[0]: int(words[1]) for words in entries if len(words) == 2 and words[1].isdecimal()}


@dataclass(frozen=True)
class _Mount:
    """Where a tree, or the part of it below `top`, is seen."""

    top: PurePosixPath
    place: PurePosixPath
    version: int
    controllers: frozenset[str]  # of version 1


def groups(controller: str, root: Path) -> list[Group]:
    """The groups whose `controller` ("cpu", "memory") limits this process, from its own to the highest that can be seen.

    Args:
        root: where this computer's files begin.
    """
    paths = _own_paths(root)
    found: dict[Path, Group] = {}
    for mount in _mounts(root):
        if mount.version == 1 and controller not in mount.controllers:
            continue
        inside = _below(paths.get(controller if mount.version == 1 else "", mount.top), mount.top)
        for steps in range(len(inside), -1, -1):
            place = mount.place.joinpath(*inside[:steps])
            group = Group(root / place.relative_to("/"), mount.version)
            found[group.folder] = group
            if controller == "memory" and group._text("memory.use_hierarchy") == "0":
                break  # an old setting: groups above don't count this one's memory
    return list(found.values())


def read_text(path: Path) -> str:
    """A file of the system; empty where it isn't there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _own_paths(root: Path) -> dict[str, PurePosixPath]:
    """Controller → this process's group in its tree; "" for version 2's."""
    paths: dict[str, PurePosixPath] = {}
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/"):
            paths |= dict.fromkeys(controllers.split(","), PurePosixPath(path))
    return paths


def _mounts(root: Path) -> list[_Mount]:
    mounts = []
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        fields, _, behind = line.partition(" - ")
        words, (kind, *_, options) = fields.split(), (*behind.split(), "", "")[:3]
        if kind in ("cgroup", "cgroup2") and len(words) > 4:
            top, place = (PurePosixPath(_unescaped(word)) for word in words[3:5])
            mounts.append(_Mount(top, place, 2 if kind == "cgroup2" else 1, frozenset(options.split(","))))
    top = PurePosixPath("/")
    return mounts or [
        _Mount(top, _USUAL, 2, frozenset()),
        *(_Mount(top, _USUAL / name, 1, frozenset(name.split(","))) for name in ("cpu", "cpu,cpuacct", "memory")),
    ]


def _below(path: PurePosixPath, top: PurePosixPath) -> tuple[str, ...]:
    """The steps from a mount's top to a group; none where the group isn't below it, as in another namespace: its container's
    own group is what the mount shows then."""
    if ".." in path.parts or not path.is_relative_to(top):
        return ()
    return path.relative_to(top).parts


def _unescaped(word: str) -> str:
    """A path of mountinfo, which has white space as octal numbers."""
    for number in (r"\040", r"\011", r"\012", r"\134"):
        word = word.replace(number, chr(int(number[1:], 8)))
    return word
