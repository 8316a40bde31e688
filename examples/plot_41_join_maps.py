"""
Join maps: of flips, of sizes, of a path, of several methods
============================================================

A map of one pass is one sample. Transformations take the mean over mirrored and brighter images, over sizes, or over
the path from an empty image; ``fuse_maps`` joins maps that you already have.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, tiny
from camfn.methods import eigen_cam, hires_cam
from camfn.transforms import Augmentation, augment, flip, fuse_maps, multi_scale, multiply, path_integral

net = tiny.load("cnn")
world = tiny.scenes(1, generator=torch.Generator().manual_seed(0))
digit = int(world.labels[0, 0])
plain = explainer(hires_cam, net, "body")

shift = Augmentation(lambda x: x.roll(4, -1), lambda cam: cam.roll(-1, -1))  # one of your own, with its inverse
explanations = {
    "hires_cam": plain,
    "darker, brighter": augment(plain, [multiply(0.9), multiply(1.1)]),
    "mirrored, shifted": augment(plain, [flip(-1), shift]),
    "three sizes": multi_scale(hires_cam, net, "body", [48, 64, 96]),
    "along a path": path_integral(hires_cam, net, "body", space="activations", steps=16),
}
maps = {name: explain(world.images, digit) for name, explain in explanations.items()}
two = [maps["hires_cam"].clamp(min=0), explainer(eigen_cam, net, "body")(world.images).clamp(min=0)]
maps["with eigen_cam"] = fuse_maps(two, how="product")
pictures = [image.overlay(world.images, image.normalize(cam))[0] for cam in maps.values()]
to_pil_image(image.montage(pictures, list(maps), columns=6, cell=(180, 180)))
# sphinx_gallery_thumbnail_cell = 3, 6

# %%
# **If it looks wrong:** An image that the network cannot read mirrored, or at another size, adds a wrong map to the
# mean: print the score of each. An inverse that does not fit its ``forward`` smears the map.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_14_steadier.py`, :ref:`sphx_glr_howto_plot_15_several_layers.py`.
