"""The app with all its commands; importing a module of commands registers them."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

# in the order of `camfn --help`
# isort: off
from ._commands.explain import explain as explain
from ._commands.pictures import compare as compare
from ._commands.concepts import concepts as concepts
from ._commands.explore import explore as explore
from ._commands.words import words as words
from ._commands.evaluate import evaluate as evaluate
from ._commands.table import table as table
from ._commands.suite import suite_app as suite_app
from ._commands.export import export as export
from ._commands.export import verify as verify
from ._options.command import app as app
