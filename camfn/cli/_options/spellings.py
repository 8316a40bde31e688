"""What all commands share: both spellings of options such as `--method`, and the check of the places to write to."""

# tested in tests/cli/options/test_spellings.py and test_places.py

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from .._accidents import report_refusal

WORDS = ("model", "method", "metric", "target", "layer", "format")
"""Options that a user may write with or without an s, unless a command has both."""

PLACES = ("out", "page", "figure", "maps", "latex", "markdown", "ranks", "parquet", "bib", "board")
"""Options that name what a command writes, a file or a folder."""

OTHERS = {"--by": ("--metric",)}
"""Further spellings: `tune` ranks by the metric that it does well on."""


class Command(TyperCommand):
    """A command that takes both spellings, and does nothing before it knows that it can write where it is to."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write each option in the command's own spelling, and parse."""
        known = {name for parameter in self.params for name in parameter.opts}
        return super().parse_args(ctx, respelled(args, known))

    def invoke(self, ctx: Any) -> Any:
        """Check the places to write to, and run the command."""
        from ..._shared.errors import CamfnError
        from ..._shared.files import check_place

        for name, given in ctx.params.items():
            if name in PLACES and given is not None:
                try:
                    check_place(Path(given), f"--{name}")
                except CamfnError as error:
                    report_refusal(error)
                    raise typer.Exit(2) from error
        return super().invoke(ctx)


class App(typer.Typer):
    """An app of such commands."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Register a command."""
        return super().command(name, **{"cls": Command, **settings})


def respelled(words: Iterable[str], known: set[str]) -> list[str]:
    """Replace the names of options that a command does not have by the other spelling, if it has that.

    Example:
        >>> respelled(["a.png", "--methods=fem", "--", "--models"], {"--method", "--model"})
        ['a.png', '--method=fem', '--', '--models']
    """
    given, found = list(words), []
    end = given.index("--") if "--" in given else len(given)
    for word in given[:end]:
        name, equals, value = word.partition("=")
        others = [other for other in _other_spellings(name) if other in known]
        found.append(f"{others[0]}{equals}{value}" if name not in known and others else word)
    return found + given[end:]


def _other_spellings(name: str) -> tuple[str, ...]:
    """List the other spellings of an option; of most there are none."""
    word = name.removeprefix("--")
    if word == name:
        return ()
    plain = word.removesuffix("s")
    return OTHERS.get(name, (f"--{plain}" if word != plain else f"--{plain}s",) if plain in WORDS else ())
