"""
Explain a region of a segmentation
==================================

A segmentation has a score at every pixel. The target sums the scores of a class over a region: a mask of yours, what
is predicted as the class, or all.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, targets, tiny
from camfn.methods import hires_cam

net = tiny.load("segmenter")  # {"out": (B, 11, 64, 64)}, as torchvision has it
world = tiny.scenes(1, generator=torch.Generator().manual_seed(0))
explain = explainer(hires_cam, net, "body.3")
first, second = world.labels[0].tolist()

maps = {
    f"why is this a {first}?": explain(world.images, targets.mask_score(first + 1, world.masks[:, 0])),
    f"why is this a {second}?": explain(world.images, targets.mask_score(second + 1, world.masks[:, 1])),
    "the largest class": explain(world.images, targets.mask_score(region="predicted")),
}
pictures = [world.images[0], *(image.overlay(world.images, image.normalize(cam))[0] for cam in maps.values())]
to_pil_image(image.montage(pictures, ["the image", *maps], columns=4, cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 1, 4

# %%
# **If it looks wrong:** A map over the whole picture often comes from ``region="all"``. A class that is predicted
# nowhere has no region, which is an error and not a blank map.

# %%
# **Next:** :doc:`/tasks` on networks with one logit and with deep supervision;
# :ref:`sphx_glr_howto_plot_09_large_picture.py`.
