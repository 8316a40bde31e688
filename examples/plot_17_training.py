"""
Put a map into a training loss
==============================

With ``differentiable=True`` the map keeps its graph, so a loss may ask that the evidence lie where it should. Here a
few steps of training teach a network that knows digits to look at the digit alone.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import capture, explainer, image, tiny
from camfn.methods import grad_cam, hires_cam

net = tiny.load("cnn")
world = tiny.scenes(16, digits=1, generator=torch.Generator().manual_seed(5))
digits, inside = world.labels[:, 0], world.masks[:, 0].float()[:, None]
places = torch.nn.functional.adaptive_max_pool2d(inside, 16)[:, 0]  # where the digit is, on the grid of the layer
before = explainer(grad_cam, net, "body")(world.images, digits)

optimizer = torch.optim.Adam(net.parameters(), 3e-4)
for step in range(30):
    captured = capture(net, "body", differentiable=True)(world.images, digits)
    heat = hires_cam(*captured).relu()
    outside = (heat * (1 - places)).sum((1, 2)) / (heat.sum((1, 2)) + 1e-6)
    loss = torch.nn.functional.cross_entropy(captured.outputs, digits) + outside.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 in (0, 9):
        print(f"step {step:2}: {outside.mean():.0%} of the map is outside of the digit")

after = explainer(grad_cam, net, "body")(world.images, digits)
pictures = [image.overlay(world.images, image.normalize(cam))[3] for cam in (before, after)]
to_pil_image(image.montage([world.images[3], *pictures], ["the image", "before", "after"], cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 2, 3

# %%
# **If it looks wrong:** A loss that falls while accuracy falls too has taught the network to hide its evidence: watch
# both. Fused attention has no second derivative: train under ``sdpa_kernel(SDPBackend.MATH)``.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_13_believe_it.py`; :doc:`/concepts`.
