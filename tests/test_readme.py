"""What README tells to type: commands and options exist, settings are accepted, marked blocks run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from switchkd.cli.main import main
from switchkd.training.recipe_reader import load_recipe, read_recipe_values

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RUN_MARK = "<!-- run in the tests -->\n"
LINK = re.compile(r"\]\(([^)#:]+)\)")


def blocks(language: str, *, marked: bool = False) -> list[str]:
    return re.findall(f"{RUN_MARK if marked else ''}```{language}\n(.*?)```", README, re.DOTALL)


def command_lines(text: str) -> list[list[str]]:
    """The commands of a shell block as argument lists, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


COMMANDS = [words for block in blocks("sh") for words in command_lines(block)]
INLINE = [shlex.split(text.partition(" > ")[0]) for text in re.findall(r"`((?:skd|make) [^`]+)`", README)]


def parse(words: list[str]) -> click.Context:
    """Parses a command line as `skd` itself does, up to the point where the command would run.

    Raises:
        click.UsageError: an unknown command or option, a missing argument, a value of the wrong type.
    """
    command: click.Command = main
    context = main.make_context("skd", words[1:])
    while isinstance(command, click.Group):
        name, found, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command, context = found, found.make_context(name, arguments, parent=context)
    return context


def test_readme_has_commands_of_both_kinds():
    assert {words[0] for words in COMMANDS} == {"make", "skd"}
    assert blocks("sh", marked=True) and blocks("python", marked=True)


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[0] == "skd"], ids=" ".join)
def test_skd_commands_are_accepted(words: list[str]):
    options = parse(words).params
    if "overrides" in options:
        load_recipe(options["recipe"], options["overrides"])
    elif words[1] == "recipe" and options["name"]:
        read_recipe_values(options["name"])


def test_a_wrong_option_would_be_noticed():
    with pytest.raises(click.UsageError):
        parse(["skd", "distill", "--receipt", "roadscenes"])


@pytest.mark.parametrize("words", INLINE, ids=" ".join)
def test_commands_in_the_text_exist(words: list[str]):
    if words[0] == "make":
        dry_run(words[1])
        return
    command: click.Command = main
    for word in words[1:]:
        if isinstance(command, click.Group) and not word.startswith("-") and word != "COMMAND":
            assert word in command.commands, words
            command = command.commands[word]


@pytest.mark.parametrize("target", sorted({words[1] for words in COMMANDS if words[0] == "make"}))
def test_make_targets_exist(target: str):
    dry_run(target)


def dry_run(target: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, env=environment, check=True, capture_output=True)


def test_every_command_is_told_about():
    for name in main.commands:
        assert f"skd {name}" in README, name


def test_links_lead_somewhere():
    for target in LINK.findall(README):
        assert (ROOT / target).exists(), target


def test_marked_blocks_run(tmp_path: Path):
    """In README's order, in an empty folder."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for block in blocks("sh", marked=True):
        subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=environment, check=True)
    for block in blocks("python", marked=True):
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=environment, check=True)
    for made in ("student/config.json", "reports/accuracy.json", "reports/training.png", "recipe.yaml", "data-index"):
        assert (tmp_path / "runs" / "dry" / made).exists(), made
    assert (tmp_path / "runs" / "latest").resolve() == (tmp_path / "runs" / "dry").resolve()
