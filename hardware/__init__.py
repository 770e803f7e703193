"""Target computers: what is known of each, with its source, and what a variant would need and take there.

Standard library only. Everything that `fit` says is a prediction; `docs/hardware.md` tells how it is made.
"""
