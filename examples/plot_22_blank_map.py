"""
Find out why my map is blank
============================

A blank map is an answer that needs a reason. ``diagnose`` reads activations, gradients and the map, and says which it
is.
"""

import torch
from torch import nn
from torchvision.transforms.functional import to_pil_image

from camfn import CaptureError, capture, diagnose, explainer, image, tiny
from camfn.methods import grad_cam

net = tiny.load("cnn")
photo = tiny.scenes(1, generator=torch.Generator().manual_seed(0)).images

captured = capture(net, "body")(photo, lambda logits: -logits.max(1).values)  # asks for what speaks against the class
cam = grad_cam(*captured)
print(diagnose(captured, cam)[0])

saturated = capture(nn.Sequential(net, nn.Sigmoid()), "0.body")(photo, lambda out: (1e4 * out[:, 3]).sigmoid())
print(diagnose(saturated, grad_cam(*saturated))[0])

try:
    explainer(grad_cam, net, "head")(photo)  # behind the mean over places
except CaptureError as error:  # the CamfnError of a layer that cannot be explained
    print(error)

pictures = [photo[0], image.overlay(photo, image.normalize(cam))[0]]
pictures += [image.colorize(image.upsample(image.normalize(cam, signed=True), (64, 64)), "seismic")[0]]
to_pil_image(image.montage(pictures, ["the image", "clipped at zero", "with its sign"], cell=(260, 260)))
# sphinx_gallery_thumbnail_cell = 2, 3

# %%
# **If it looks wrong:** If ``diagnose`` says nothing and the map still looks wrong, ask ``camfn.check``.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_13_believe_it.py`, :ref:`sphx_glr_howto_plot_02_which_layer.py`;
# :doc:`/limitations`.
