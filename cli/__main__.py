"""`python -m switchkd.cli`."""

from switchkd.cli.main import main

main(prog_name="skd")
