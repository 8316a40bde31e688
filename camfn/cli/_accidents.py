"""What the command line prints of an exception, a refusal or not."""

from __future__ import annotations

import os
import sys
import traceback

from .._shared.given import called_by_given, raised_by_given

EXIT_CODE = 70
"""Exit code of the commands after a bug or an accident (EX_SOFTWARE of BSD's sysexits)."""


def report_refusal(error: Exception) -> None:
    """Print one line: a `CamfnError` says what to ask for instead, a `StoppedError` how to go on."""
    print("camfn: " + " ".join(str(error).split()), file=sys.stderr)


def report_accident(error: Exception) -> None:
    """Print one line about an exception that is no `CamfnError`, and its traceback where CAMFN_TRACEBACK=1 is set."""
    if os.environ.get("CAMFN_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exception(error)
    message = str(error).strip()
    summary = f"{type(error).__name__}: {message.splitlines()[0]}" if message else type(error).__name__
    place = raised_by_given(error)
    whose = f"your code ({place})"
    if place is None:
        caller = called_by_given(error)
        own = f", a mistake in your code ({caller})" if caller else ""
        whose = f"a bug of camfn{own}, or an accident such as a full disk"
    print(f"camfn: {whose}: {summary}. Set CAMFN_TRACEBACK=1 to see the traceback", file=sys.stderr)
