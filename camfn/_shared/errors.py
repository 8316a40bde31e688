"""Errors of camfn: each says what was expected, what came, and the call that works."""


class CamfnError(ValueError):
    """A refusal: camfn cannot do what was asked for, and the message says what to ask instead.

    Every refusal of camfn is one. Any other exception that leaves camfn is a bug, or an accident such as a full disk.
    """


class ArgumentTypeError(CamfnError, TypeError):
    """An argument has a type that the function does not take."""


class MissingPackageError(CamfnError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class CaptureError(CamfnError):
    """A layer cannot be captured as asked; the message says what to ask instead."""


class LoadError(CamfnError):
    """A model cannot be loaded as asked; the message says what to ask instead."""


class PhotoError(CamfnError):
    """A photo cannot be read; the message is one line and says why."""


class UsageError(CamfnError):
    """A command or a run was asked for something that cannot be done; the message is one line and says what can."""
