"""
Make a map steadier
===================

Three transformations, which compose: the mean over flips and brightness, the mean over noise, and the first component
of the weighted channels.
"""

import torch
from PIL import Image
from skimage.data import astronaut
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from camfn import explainer, image
from camfn.methods import hires_cam
from camfn.transforms import augment, eigen_smooth, smooth
from camfn.zoo import load

loaded = load("lite0")
view = pil_to_tensor(Image.fromarray(astronaut()).resize((448, 448)))[None] / 255
images = (view * 255 - 127) / 128
plain = explainer(hires_cam, loaded.model, "blocks.5")
generator = torch.Generator().manual_seed(0)
explanations = {
    "hires_cam": plain,
    "augment": augment(plain),
    "smooth": smooth(plain, 10, generator=generator),
    "eigen_smooth": explainer(eigen_smooth(hires_cam), loaded.model, "blocks.5"),
}
target = loaded.classes.index("space shuttle")
pictures = [image.overlay(view, image.normalize(explain(images, target)))[0] for explain in explanations.values()]
to_pil_image(image.montage(pictures, list(explanations), columns=4, cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 1, 4

# %%
# **If it looks wrong:** Smoothing makes any map look better, also a wrong one: check the plain map first. ``augment``
# mirrors the image, which is wrong for text and for left and right.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_15_several_layers.py`; :ref:`sphx_glr_howto_plot_13_believe_it.py`.
