"""
Explain a picture that is too large for the network
===================================================

``transforms.windows`` cuts it into overlapping windows, asks each for the same score, and stitches the raw maps.
"""

import numpy as np
import torch
from skimage.color import hed_from_rgb
from skimage.data import immunohistochemistry
from torch import nn
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image
from camfn.methods import grad_cam
from camfn.transforms import WindowScores, windows


class Stains(nn.Module):
    """How much hematoxylin, eosin and DAB a tile has, by color deconvolution."""

    def __init__(self):
        super().__init__()
        self.density = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AvgPool2d(4))
        self.density[0].weight.data.copy_(torch.as_tensor(hed_from_rgb).T[:, :, None, None])

    def forward(self, x):
        """The three amounts."""
        return self.density(-x.clamp(0.01).log10()).mean((2, 3))


def grid_of(found: WindowScores):
    """Lay the scores of the windows out as a picture, where each stands in the slide."""
    return found.scores.unflatten(1, found.grid).repeat_interleave(64, 1).repeat_interleave(64, 2)


slide = torch.as_tensor(np.array(immunohistochemistry())).permute(2, 0, 1)[None] / 255  # (1, 3, 512, 512)
explain = windows(explainer(grad_cam, Stains().eval(), "density"), 128, overlap=0.5, weights="gaussian", has_aux=True)
cam, found = explain(slide, 2)  # (1, 512, 512), and the score of each of 7 x 7 windows
pictures = [slide[0], image.overlay(slide, image.normalize(cam))[0], image.colorize(image.normalize(grid_of(found)))[0]]
to_pil_image(image.montage(pictures, ["a slide", "where the DAB is", "the score of each window"], cell=(320, 320)))
# sphinx_gallery_thumbnail_cell = 1, 3

# %%
# **If it looks wrong:** Edges of tiles show where windows overlap too little, or where each window was normalized by
# itself. Without a class each window would explain its own, which `windows` refuses.

# %%
# **Next:** :doc:`/tasks` for MONAI's and nnU-Net's networks; :ref:`sphx_glr_howto_plot_08_volume.py`.
