"""Photos that the tests of the commands read."""

from __future__ import annotations

from pathlib import Path

import torch

from camfn import image, tiny


def scenes_in(folder: Path, count: int) -> Path:
    """Save scenes of the tiny world, 0.png and so on, in a new folder, and return it."""
    folder.mkdir()
    for i, pixels in enumerate(tiny.scenes(count, generator=torch.Generator().manual_seed(5)).images):
        image.save(pixels, folder / f"{i}.png")
    return folder
