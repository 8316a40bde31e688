"""
Explain an X-ray or a scan of 16 bits
=====================================

Deep gray values hold more than a screen shows. camfn refuses to draw them black and asks which values to show:
``--window LOW,HIGH``, ``auto`` or ``full``. The example writes a gray picture of 12 bits and explains it from the
command line, here called from Python.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

from camfn import tiny
from camfn.cli._app import app

folder = Path(tempfile.mkdtemp())
scene = tiny.scenes(1, generator=torch.Generator().manual_seed(4)).images[0].mean(0).numpy()
Image.fromarray((scene * 4095).astype(np.uint16)).save(folder / "scan.png")  # a .dcm file works alike


def camfn(*words: str) -> str:
    """Run the command line; in a terminal: camfn explain scan.png ..."""
    return CliRunner().invoke(app, [str(word) for word in words]).output


print(camfn("explain", folder / "scan.png", "--model", "tiny:cnn", "--out", folder / "refused"))
shown = ["--window", "0,4095", "--out", folder / "maps"]
print(camfn("explain", folder / "scan.png", "--model", "tiny:cnn", "--device", "cpu", *shown).replace(str(folder), "."))
Image.open(folder / "maps" / "scan.grad_cam.png").resize((320, 320))
# sphinx_gallery_thumbnail_cell = 0, 1

# %%
# **If it looks wrong:** A map that follows bones or borders alone may come from a window other than that of the
# training: the picture shows what the network reads. The record says which window it was.

# %%
# **Next:** :doc:`/records`; :ref:`sphx_glr_howto_plot_08_volume.py` for CT and MR. DICOM and NIfTI need ``pip install
# 'camfn[medical]'``.
