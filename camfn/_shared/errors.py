"""Errors of camfn: each says what was expected, what came, and the call that works."""

from __future__ import annotations


class UsageError(ValueError):
    """Something was asked for that cannot be done; the message is one line and says what can."""


class CaptureError(ValueError):
    """A layer cannot be captured as asked; the message says what to ask instead."""


class PhotoError(ValueError):
    """A photo cannot be read; the message names it and says why."""


class LoadError(ValueError):
    """A model cannot be loaded as asked; the message says what to ask instead."""
