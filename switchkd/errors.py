"""Errors that a person can cause. The command line prints them as one line, without a traceback."""


class SkdError(Exception):
    """What happened, with which file or option, and what to do about it; one line, full sentences."""


class RecipeError(SkdError):
    """A recipe or a `--set` option that can't be used."""


class DataError(SkdError):
    """A data set that can't be used."""


class CheckpointError(SkdError):
    """A model folder that is missing something, torn or of an unsupported kind."""


class CompatibilityError(SkdError):
    """A teacher and a student that can't be distilled into one another."""


class ExtensionError(SkdError):
    """A file from outside the package that can't be loaded, or doesn't declare what its folder is for."""


class MissingDependencyError(SkdError):
    """An optional package that the asked-for work needs and that isn't installed."""


def first_line(error: Exception) -> str:
    """Another library's message, short enough for one line."""
    return str(error).strip().split("\n")[0][:200]
