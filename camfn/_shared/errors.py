"""Errors of camfn; each message says what camfn expected, what it got, and which call works."""


# tested in tests/cli/test_accidents.py and tests/test_structure.py


class CamfnError(ValueError):
    """Base class of all refusals: camfn cannot do what the caller asks for, and the message says what to ask instead.

    Any other exception that leaves camfn is a bug, or an accident such as a full disk.
    """


class ArgumentTypeError(CamfnError, TypeError):
    """An argument has a type that the function does not take."""


class MissingPackageError(CamfnError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class CaptureError(CamfnError):
    """camfn cannot capture a layer in this way; the message says what to ask instead."""


class DerivativeError(CaptureError, NotImplementedError):
    """An operation of the network does not have the derivative that a method needs; the message names what works."""


class LoadError(CamfnError):
    """camfn cannot load a model in this way; the message says what to ask instead."""


class PhotoError(CamfnError):
    """camfn cannot read a photo; the message is one line and says why."""


class StoppedError(RuntimeError):
    """An accident ended a run before its end; the message says what happened, what the folder keeps, how to go on."""


class UsageError(CamfnError):
    """A command or an evaluation got words that it cannot work with; the message is one line and says which it can."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; nothing where the error has none."""
    return (str(error).strip().splitlines() or [""])[0]
