"""
Explain a volume, a video or a series
=====================================

Every method takes one to three spatial dimensions. The network below is one filter that answers to balls, so that the
right answer is known: the nodule, and not the vessel.
"""

import torch
from torch import nn
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image
from camfn.methods import hires_cam


def ball(radius, size):
    """A ball in the middle of a cube."""
    line = torch.arange(size) - (size - 1) / 2
    return ((line[:, None, None] ** 2 + line[:, None] ** 2 + line**2).sqrt() < radius).float()


inside, shell = ball(4, 13), ball(6.5, 13) - ball(4, 13)
match = nn.Sequential(nn.Conv3d(1, 1, 13, stride=2, padding=6), nn.ReLU(), nn.AvgPool3d(3, 1, 1))
net = nn.Sequential(*match, nn.AdaptiveAvgPool3d(1), nn.Flatten()).eval()
with torch.no_grad():
    net[0].weight.copy_(inside / inside.sum() - shell / shell.sum())
    net[0].bias.fill_(-0.28)

z, y, x = torch.meshgrid(*(torch.arange(-n / 2, n / 2) for n in (40, 96, 96)), indexing="ij")
scan = torch.where((y / 40) ** 2 + (x / 46) ** 2 < 1, 0.55, 0.0)  # a chest
scan[(y / 30) ** 2 + ((x.abs() - 22) / 17) ** 2 < 1] = 0.1  # its lungs
scan[(y - 6) ** 2 + (x + 26 - 0.3 * z) ** 2 < 5] = 0.6  # a vessel, through all slices
scan[14:27, 28:41, 62:75] += 0.5 * ball(4, 13)  # a nodule
scan = scan.clamp(0, 1)[None, None]

cam = explainer(hires_cam, net, "2")(scan, 0)  # (1, 20, 48, 48)
slices = image.slices(scan[0, 0], image.normalize(cam)[0], count=14)[4:10]
to_pil_image(image.montage(slices, columns=6, cell=(150, 150)))
# sphinx_gallery_thumbnail_cell = 3, 6

# %%
# ``image.slice_montage`` does both steps at once, for a first look.

to_pil_image(image.slice_montage(scan[0, 0], image.normalize(cam)[0], count=4))

# %%
# **If it looks wrong:** Normalize a volume as a whole, as here; slice by slice, every slice would seem to hold
# evidence. Time before the channels, (B, T, C, H, W), needs ``layout=layout.frames(T)``.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_09_large_picture.py`; :doc:`/tasks` has videos, bags, an ECG and sound. On the
# command line: ``camfn explain scan.nii.gz``.
