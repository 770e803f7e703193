"""`skd` itself: its first page, and what shells are told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from switchkd.cli.main import STATIONS, main

SKD = Path(sys.executable).with_name("skd")


def test_the_first_page_has_every_command_at_one_station():
    page = CliRunner().invoke(main, ["--help"]).output
    shown = [command for commands in STATIONS.values() for command in commands]
    assert sorted(main.commands) == sorted(command.name for command in shown)
    for command in shown:
        lines = [
            line for line in page.splitlines() if line.split()[:1] == [command.name] and command.short_help in line
        ]
        assert len(lines) == (not command.hidden), command.name
    assert all(f"{station}:" in page for station in STATIONS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_for_shells(shell):
    script = CliRunner().invoke(main, ["completion", shell]).output
    assert f"_SKD_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize("words, wanted", [("skd ex", "plain,export"), ("skd bench --dev", "plain,--device")])
def test_what_a_shell_is_told(words, wanted):
    """As bash asks, by the script."""
    asked = {"_SKD_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    result = subprocess.run([SKD], env=os.environ | asked, capture_output=True, text=True, check=True)
    assert wanted in result.stdout.split()
