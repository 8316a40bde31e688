"""
See single pixels: gradients in the image, and all layers at once
=================================================================

A map of a layer is coarse. Methods of the whole network give a value for every pixel and channel, or a map with the
biases of all layers. Fine does not mean right: two of them show the edges of the photo, whichever class you ask for.
"""

import torch
from PIL import Image
from skimage.data import chelsea
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from camfn import image, network
from camfn.zoo import load

loaded = load("lite0")
photo = Image.fromarray(chelsea())
view = pil_to_tensor(loaded.view(photo).resize((160, 160)))[None] / 255
images = (view * 255 - 127) / 128  # lite0's own normalization; smaller than it was trained on, to save time
target = loaded.classes.index("Egyptian cat")
seed = torch.Generator().manual_seed

of_pixels = {
    "input_gradient": network.input_gradient(loaded.model),
    "smooth_grad": network.smooth_grad(loaded.model, samples=6, generator=seed(0)),
    "integrated_gradients": network.integrated_gradients(loaded.model, steps=8),
    "expected_gradients": network.expected_gradients(loaded.model, samples=8, generator=seed(0)),
    "idgi": network.idgi(loaded.model, steps=8),
    "guided_ig": network.guided_ig(loaded.model, steps=8),
    "guided_backprop": network.guided_backprop(loaded.model),
    "deconvnet": network.deconvnet(loaded.model),
    "guided_grad_cam": network.guided_grad_cam(loaded.model, "bn2"),
}
pictures, other = [view[0]], loaded.classes.index("tabby")
for explain in of_pixels.values():
    gradient = explain(images, target)  # (1, 3, 160, 160), signed
    pictures.append(image.relief(gradient)[0])  # gray is zero
maps = {
    "full_grad": network.full_grad(loaded.model),
    "simple_full_grad": network.simple_full_grad(loaded.model),
    "smooth_full_grad": network.smooth_full_grad(loaded.model, samples=2, generator=seed(0)),
    "smooth_grad_cam_plusplus": network.smooth_grad_cam_plusplus(loaded.model, "bn2", samples=3, generator=seed(0)),
}
pictures += [image.overlay(view, image.normalize(explain(images, target)))[0] for explain in maps.values()]
to_pil_image(image.montage(pictures, ["the photo", *of_pixels, *maps], columns=5, cell=(190, 190)))
# sphinx_gallery_thumbnail_cell = 4, 5

# %%
# Which of them ask for the class? The correlation of the pictures of two classes; near 1 the class does not matter.

for name in ("input_gradient", "integrated_gradients", "guided_backprop", "guided_grad_cam"):
    both = torch.stack([of_pixels[name](images, index).flatten() for index in (target, other)])
    print(f"{name:22} {torch.corrcoef(both)[0, 1]:.2f}")

# %%
# **If it looks wrong:** ``image.relief`` clips the largest values, so that the rest is not gray. A network without
# ReLUs has no ``guided_backprop``: its error names what it found, ``network.unguided`` what the rule leaves alone.
# Gradients along a path start at the ``baseline``, black or gray: what has its color gets nothing.

# %%
# **Next:** :doc:`/methods` says where each helps and fails; :ref:`sphx_glr_howto_plot_37_depends_on_weights.py`;
# ``camfn guided photo.jpg`` on the command line.
