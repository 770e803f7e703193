"""What README and docs/ tell to type exists, is accepted, and runs where it is marked so; generated pages are true."""

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
from switchkd.recipes.reader import load_recipe, read_recipe_values

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = {path: path.read_text() for path in (README, *sorted((ROOT / "docs").rglob("*.md")))}
RUN = [README, ROOT / "docs" / "training.md", ROOT / "docs" / "onnx.md"]  # pages with marked blocks, in their order
RUN_MARK = "<!-- run in the tests -->\n"
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(f"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def command_lines(text: str) -> list[list[str]]:
    """The commands of a shell block as argument lists, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


COMMANDS = [words for page in PAGES for block in blocks("sh", page) for words in command_lines(block)]
INLINE_TEXTS = {found for page in PAGES.values() for found in re.findall(r"`((?:skd|make) [^`\n]+)`", page)}
INLINE = [shlex.split(text.partition(" > ")[0]) for text in sorted(INLINE_TEXTS)]


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


def test_there_are_commands_of_both_kinds():
    assert {words[0] for words in COMMANDS} == {"make", "skd"}
    assert {page for page, text in PAGES.items() if RUN_MARK in text} == set(RUN)


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
    for name, command in main.commands.items():
        assert command.hidden or f"skd {name}" in PAGES[README], name


def test_the_first_page_is_short():
    assert len(PAGES[README].splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    for target in LINK.findall(PAGES[page]):
        assert (page.parent / target).exists(), target


def test_generated_pages_are_true(tmp_path: Path):
    """Made in a process of its own: click keeps what other tests have called a command's options."""
    subprocess.run([sys.executable, ROOT / "docs" / "generate.py", tmp_path], check=True)
    made = list(tmp_path.iterdir())
    assert len(made) == 2
    for path in made:
        assert PAGES[ROOT / "docs" / path.name] == path.read_text(), f"docs/{path.name} is old: python docs/generate.py"


@pytest.mark.long
@pytest.mark.parametrize("pages", [RUN[:2], pytest.param(RUN, marks=pytest.mark.slow)], ids=["first", "all"])
def test_marked_blocks_run(tmp_path: Path, pages: list[Path]):
    """In the pages' order, in an empty folder."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    shells = {"sh": ["bash", "-euc"], "python": [sys.executable, "-c"]}
    for page in pages:
        for language, block in re.findall(f"{RUN_MARK}```(\\w+)\n(.*?)```", PAGES[page], re.DOTALL):
            subprocess.run([*shells[language], block], cwd=tmp_path, env=environment, check=True)
    for made in ("student/config.json", "reports/accuracy.json", "reports/training.png", "recipe.yaml", "data-index"):
        assert (tmp_path / "runs" / "dry" / made).exists(), made
    assert (tmp_path / "runs" / "latest").resolve() == (tmp_path / "runs" / "dry").resolve()
