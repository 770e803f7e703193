"""`optimum-cli export skd`: `skd export` by optimum's command line.

optimum looks for other packages' commands in the namespace folder `optimum/commands/register`, where this file is installed.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator

import click
from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

from switchkd.cli.export import export_command

_OTHERWISE_NAMED = ("checkpoint", "out")  # optimum's commands call them --model and OUTPUT


class SkdExportCommand(BaseOptimumCLICommand):
    """Takes the options of `skd export` as they are declared there."""

    COMMAND = CommandInfo(name="skd", help="Export a LLaVA student to GGUF or ONNX, quantized and proved (switchkd).")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declares the options; called by optimum when it starts."""
        parser.add_argument("-m", "--model", required=True, help="Folder of the checkpoint, or its name on the hub.")
        parser.add_argument("output", metavar="OUTPUT", help="Export folder.")
        for option in _options():
            help = (option.help or "").replace("%", "%%")
            if option.is_flag:
                parser.add_argument(option.opts[0], dest=option.name, action="store_true", help=help)
            else:
                parser.add_argument(
                    option.opts[0], dest=option.name, metavar=option.make_metavar(_context()), help=help
                )

    def run(self) -> None:
        """Exports; ends the process as `skd export` would."""
        from switchkd.cli.main import main

        given = {option: getattr(self.args, option.name or "") for option in _options()}
        words = [
            word
            for option, value in given.items()
            if value not in (None, False)
            for word in ([option.opts[0]] if option.is_flag else [option.opts[0], value])
        ]
        main(["export", self.args.model, "--out", self.args.output, *words], prog_name="optimum-cli export skd")


def _context() -> click.Context:
    return click.Context(export_command)


def _options() -> Iterator[click.Option]:
    export_command.get_params(_context())  # completes their help texts
    for option in export_command.params:
        if isinstance(option, click.Option) and option.name not in _OTHERWISE_NAMED:
            yield option


REGISTER_COMMANDS = [(SkdExportCommand, ExportCommand)]
