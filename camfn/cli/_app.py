"""The app with all its commands; importing a module of commands registers them."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

# in the order of `camfn --help`
# isort: off
from ._explain import explain as explain
from ._pictures import compare as compare
from ._concepts import concepts as concepts
from ._explore import explore as explore
from ._words import words as words
from ._evaluate import evaluate as evaluate
from ._table import table as table
from ._suite import suite_app as suite_app
from ._export import export as export
from ._export import verify as verify
from ._command import app as app
