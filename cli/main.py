"""`skd`: the command group, and the one place where errors become lines."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
import sys
import threading
from typing import Any

import click

import switchkd
from switchkd.cli.ablate import ablate_command
from switchkd.cli.assets import assets_command
from switchkd.cli.attention import attention_command
from switchkd.cli.bench import bench_command
from switchkd.cli.chat import chat_command
from switchkd.cli.completion import completion_command
from switchkd.cli.data import data_group
from switchkd.cli.distill import distill_command, train_command
from switchkd.cli.doctor import doctor_command
from switchkd.cli.evaluate import eval_command
from switchkd.cli.export import export_command
from switchkd.cli.hardware import hardware_group
from switchkd.cli.import_ import import_command
from switchkd.cli.init import init_command
from switchkd.cli.install import install_command
from switchkd.cli.key import key_command
from switchkd.cli.known_answer import known_answer_command
from switchkd.cli.linear_probe import linear_probe_command
from switchkd.cli.recipe import recipe_command
from switchkd.cli.runs import runs_command
from switchkd.cli.serve import serve_command
from switchkd.cli.ship import ship_command
from switchkd.cli.status import status_command
from switchkd.cli.verify import verify_command
from switchkd.errors import SkdError
from switchkd.hardware.runtimes import RUNTIMES
from switchkd.processor import require_numpy

# Threads that wait by spinning make training ten times slower on a busy machine; without any spinning it is up to a third slower
# on a quiet one. Read when torch loads; the first is GNU's library, the second any other. Engines keep their libraries' ways:
# without spinning llama.cpp takes twice the time for a token.
_WAITING = {"GOMP_SPINCOUNT": "1000", "OMP_WAIT_POLICY": "passive"}
_TRAINING = frozenset({"distill", "train", "ablate", "assets"})

# Which extra brings a package that a command turned out to need.
_EXTRAS = {
    **{module: extra.name for each in RUNTIMES.values() for extra in each.extras for module in extra.packages.values()},
    **dict.fromkeys(
        ("torch", "transformers", "accelerate", "safetensors", "deepspeed", "filelock", "matplotlib"), "train"
    ),
    **dict.fromkeys(("cyclonedx", "packageurl", "packaging"), "ship"),
    **dict.fromkeys(("starlette", "uvicorn", "prometheus_client"), "serve"),
}


# A student's way, and what stands at each of its stations.
STATIONS: dict[str, tuple[click.Command, ...]] = {
    "Train": (
        init_command,
        import_command,
        data_group,
        recipe_command,
        distill_command,
        train_command,
        ablate_command,
        runs_command,
        assets_command,
    ),
    "Judge": (eval_command, attention_command, linear_probe_command),
    "Export and run": (export_command, bench_command, chat_command, serve_command),
    "Ship": (hardware_group, key_command, ship_command, verify_command),
    "Device": (install_command, status_command, known_answer_command),
    "System": (doctor_command, completion_command),
}


class CommandGroup(click.Group):
    """A group whose commands' errors end as one line, unless `--debug` asks for the traceback."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for station, commands in STATIONS.items():
            with formatter.section(station):
                formatter.write_dl([(each.name or "", each.short_help or "") for each in commands if not each.hidden])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        for name, value in _WAITING.items() if found[0] in _TRAINING else ():
            os.environ.setdefault(name, value)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SkdError as error:
            if ctx.params.get("debug"):
                raise
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if ctx.params.get("debug") or extra is None:
                raise
            raise click.ClickException(
                f"This needs the package '{error.name}', which isn't installed: pip install 'switchkd[{extra}]'."
            ) from error
        except UnicodeEncodeError as error:
            if ctx.params.get("debug") or not _is_name(error.object):
                raise
            raise click.ClickException(
                f"The name {error.object[:200]} isn't UTF-8, and a library that this needs can't take it; rename it."
            ) from error
        except OSError as error:
            if ctx.params.get("debug"):
                raise
            where = f" ({error.filename})" if error.filename else ""
            raise click.ClickException(f"{error.strerror or error}{where}; --debug shows where it happened.") from error


def _is_name(text: str) -> bool:
    """Whether a text that couldn't be encoded has bytes of another encoding, as names of files and folders may."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(switchkd.__version__, prog_name="skd")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Switch-KD: distil a big vision-language model into a small one, export it, measure it.

    \b
    skd distill                              train the default recipe's student
    skd export --format gguf --quant q4      make a file of it that a small computer runs
    skd chat student-gguf-q4 --image FILE    ask it about a picture
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter is no reason to stop
    if isinstance(sys.stdin, io.TextIOWrapper):
        with contextlib.suppress(io.UnsupportedOperation):  # a program that calls this one has read from it
            sys.stdin.reconfigure(errors="surrogateescape")  # nor are bytes of another encoding; who reads them tells
    # An asked-for end cleans up like Ctrl-C; training replaces this by a handler that saves first.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    require_numpy()


for command in itertools.chain(*STATIONS.values()):
    main.add_command(command)
