"""All commands, put together."""

from __future__ import annotations

# in the order of `camfn --help`
# isort: off
from ._explain_app import explain as explain
from ._picture_app import compare as compare
from ._evaluate_app import evaluate as evaluate
from ._command import app as app
