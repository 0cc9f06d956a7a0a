"""What can go wrong by a user's input.

Every error here prints as one line and exits with code 2.
"""


class VptError(Exception):
    """Base of all errors that a user can fix.

    The message names the value, the rule, the way out.
    """


class ConfigError(VptError):
    """A configuration or an argument is wrong."""


class BackboneError(VptError):
    """A backbone is unknown, unsupported, or does not fit what is asked of it."""


class DataError(VptError):
    """A data set is missing, unreadable or inconsistent."""


class PromptFileError(VptError):
    """A prompt file is damaged, of another backbone, or needs a newer version."""


class RunError(VptError):
    """A run cannot start, go on or be saved: directory in use, no space, loss not finite."""


class RunInUseError(RunError):
    """Another process works in the run's directory."""


class DivergedError(RunError):
    """Training went astray: its loss or gradient is not finite."""


class DownloadError(VptError):
    """A file could not be fetched, or is not what was published."""
