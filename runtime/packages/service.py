"""A systemd unit that serves the release in use, is restarted when the server doesn't answer, and can't write to the system."""

from __future__ import annotations

import re
from pathlib import Path

from switchkd.errors import SkdError
from switchkd.runtime.packages.format import RUN
from switchkd.runtime.packages.releases import Releases
from switchkd.runtime.packages.status import Status
from switchkd.runtime.packages.trial import environment

UNITS = Path("/etc/systemd/system")
_UNIT = """[Unit]
Description={name} for {target}, served by skd from {folder}
After=network.target

[Service]
Type=notify
NotifyAccess=main
{environment}ExecStart={run} serve --host 127.0.0.1 --port {port}
# The server says that it lives only while its address answers and its engine comes back.
WatchdogSec=60
TimeoutStartSec=10min
Restart=on-failure
RestartSec=2
# Any user that may read {folder} will do:
#User=skd
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome=read-only
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


def unit_path(folder: Path) -> Path:
    """Where a folder's unit lies unless told otherwise: skd-NAME.service, after the folder."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.absolute().name) or "student"
    return UNITS / f"skd-{name}.service"


def unit(folder: Path, *, port: int) -> str:
    """The unit's text. Raises SkdError where no release is in use in the folder."""
    folder = folder.absolute()
    if Releases(folder).current is None:
        raise SkdError(f"No release is in use in {folder}; install one first.")
    now = next(each for each in Status.of(folder).releases if each.current)
    if now.targets is None:
        raise SkdError(f"{folder}/current is damaged; install it again first.")
    assignments = [f"Environment={name}={_plain(value)}\n" for name, value in environment(folder).items()]
    return _UNIT.format(
        name=now.targets.name,
        target=now.targets.hardware_id,
        folder=_plain(folder),
        environment="".join(assignments),
        run=_plain(folder / "current" / RUN),
        port=port,
    )


def write_unit(text: str, path: Path) -> None:
    """Writes a unit that isn't there yet.

    Raises:
        SkdError: another text is there, which somebody may have changed.
        OSError: it can't be written.
    """
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        if path.read_text(encoding="utf-8", errors="replace") != text:
            raise SkdError(f"{path} is already there with other lines: remove it, or choose another --unit.") from error


def _plain(path: object) -> str:
    """A path as it is, where no line of a unit reads it otherwise. Raises SkdError."""
    if not re.fullmatch(r"[\w./+@:,=~-]+", str(path)):
        raise SkdError(f"The path {str(path)!r} can't stand in a unit; take letters, digits, dots, dashes.")
    return str(path)
