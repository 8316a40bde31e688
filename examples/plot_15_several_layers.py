"""
Join the maps of several layers
===============================

Late layers know the class, earlier ones the outline. ``fuse`` takes all layers in one forward and one backward, and
``how`` says how the maps are joined.
"""

from PIL import Image
from skimage.data import astronaut
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from camfn import image
from camfn.methods import layer_cam
from camfn.transforms import fuse
from camfn.zoo import load

loaded = load("lite0")
view = pil_to_tensor(Image.fromarray(astronaut()).resize((448, 448)))[None] / 255
images = (view * 255 - 127) / 128
target = loaded.classes.index("space shuttle")

layers = {"bn2 alone": ["bn2"], "mean": ["blocks.4", "bn2"], "max": ["blocks.4", "bn2"], "product": ["blocks.4", "bn2"]}
maps = {
    name: fuse(layer_cam, loaded.model, names, how="mean" if "alone" in name else name, size=(448, 448))(images, target)
    for name, names in layers.items()
}
pictures = [image.overlay(view, image.normalize(cam))[0] for cam in maps.values()]
to_pil_image(image.montage(pictures, list(maps), columns=4, cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 3, 4

# %%
# **If it looks wrong:** A product is nothing where one factor is nothing: with a blank map among the layers, all is
# blank. The maximum shows every spot of every layer.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_14_steadier.py`; the formulas in :doc:`/methods`.
