"""Draw the pictures of docs/tasks.md: `python -m tests.pictures` runs the page, and saves each `picture` of a block."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from camfn import image

PAGE = Path(__file__).parents[1] / "docs" / "tasks.md"
BLOCK = re.compile(r"^```python\n(.*?)^```(?:\n\n!\[[^\]]*\]\(([^)]+)\))?", re.MULTILINE | re.DOTALL)
"""A block of code, and the picture that follows it."""


def draw(page: Path = PAGE) -> None:
    """Run the blocks from top to bottom, and save the pictures beside the page."""
    names: dict[str, object] = {}
    for code, file in BLOCK.findall(page.read_text()):
        exec(compile(code, str(page), "exec"), names)
        if file:
            picture = names["picture"]
            assert isinstance(picture, Tensor)
            image.save(picture, page.parent / file)


if __name__ == "__main__":
    draw()
