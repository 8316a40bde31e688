"""
Draw a map, save it and show it
===============================

One chain from a photo to a PNG: ``read``, ``preprocess``, ``explainer``, ``normalize``, ``overlay``, ``save``. Pictures
go in and out as tensors, arrays, PIL images, bytes or paths.
"""

import tempfile

import torch
from skimage.data import chelsea

from camfn import explainer, image
from camfn.methods import grad_cam
from camfn.zoo import load

file = f"{tempfile.mkdtemp()}/cat.jpg"
image.save(chelsea(), file)  # an array here; any picture will do

loaded = load("lite0")
photo = image.to_pil(file)  # upright, RGB
cam = explainer(grad_cam, loaded.model, "bn2")(loaded.preprocess(photo)[None])
view = image.read(loaded.view(photo))  # (3, H, W): the part of the photo that the network saw
picture = image.overlay(view, image.normalize(cam))
image.save(picture, file.replace(".jpg", ".png"))
png = image.to_bytes(picture)  # for a service

like = image.overlay(view, cam, like="grad-cam")  # pytorch-grad-cam's picture: jet, over the whole photo
signed = image.overlay(view, image.normalize(cam, signed=True), colormap="seismic")
found = view.shape[-1] * torch.tensor([[0.14, 0.22, 0.46, 0.5], [0.48, 0.74, 0.78, 0.98]])
boxed = image.boxes(view, found, ["eye", "nose"], classes=[0, 1])  # a color a class
shown = [view, picture[0], like[0], signed[0], boxed]
image.to_pil(
    image.montage(shown, ["photo", "overlay", 'like="grad-cam"', "signed", "boxes"], columns=5, cell=(224, 224))
)
# sphinx_gallery_thumbnail_cell = 1, 5

# %%
# For other programs: the map's mask at a share of its peak, and a picture as an array (H, W, 3) of bytes.

heatmap = image.upsample(image.normalize(cam), view.shape[-2:])
mask = image.to_mask(heatmap, threshold=0.5)  # (1, 224, 224) of bool
print(f"{float(mask.float().mean()):.0%} of the photo", image.to_numpy(picture[0]).shape)

# %%
# ``image.show(picture)`` opens it: below the cell of a notebook, or in the viewer of the system.

# %%
# **If it looks wrong:** Colors swapped, as of a blue orange? OpenCV has blue first: ``array[..., ::-1]``. A photo that
# was normalized for the network is no picture: take it as it was before. An overlay that does not fit its photo: the
# network saw a crop, ``loaded.view(photo)``.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_19_compare.py` for figures in PDF. On the command line: ``camfn explain cat.jpg``.
