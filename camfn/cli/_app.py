"""All commands, put together."""

from __future__ import annotations

# in the order of `camfn --help`
# isort: off
from ._explain import explain as explain
from ._pictures import compare as compare
from ._evaluate import evaluate as evaluate
from ._command import app as app
