"""
Know whether to believe a map
=============================

A map always looks like an answer. ``camfn.check`` asks what a careful reader would ask: is it another map for another
class, or for a network whose head was drawn anew? Does what it marks keep the score?
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import check, explainer, image, tiny
from camfn.methods import eigen_cam, grad_cam

net = tiny.load("cnn")
photo = tiny.scenes(1, generator=torch.Generator().manual_seed(11)).images
asks, ignores = explainer(grad_cam, net, "body"), explainer(eigen_cam, net, "body")
print("grad_cam\n", check(asks, photo), "\n\neigen_cam\n", check(ignores, photo), sep="")

pictures = [photo[0], *(image.overlay(photo, image.normalize(explain(photo)))[0] for explain in (asks, ignores))]
to_pil_image(image.montage(pictures, ["the image", "grad_cam", "eigen_cam: asks for no class"], cell=(260, 260)))
# sphinx_gallery_thumbnail_cell = 1, 3

# %%
# **If it looks wrong:** A line that says "look" is no verdict. Two breeds of one animal share most of their evidence,
# so that the maps of both may be alike and right.

# %%
# **Next:** :doc:`/check` has what each line means; :ref:`sphx_glr_howto_plot_20_metrics.py`. On the command line:
# ``camfn explain photo.jpg --check``.
