"""
Write a method, a target or a metric of my own
==============================================

A method is a function of the two sides of the cut, with no class to inherit from. What its signature asks for is what
is computed: without ``grads`` no backward runs, and a keyword ``tail`` is the rest of the network.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import Method, explainer, image, tiny
from camfn.methods import grad_cam


def squared_cam(activations, grads, outputs=None):
    """Where a small change of the activations would change the score most."""
    return (grads * activations).square().sum(1)


def occlusion_cam(activations, grads=None, outputs=None, *, tail):
    """How far the score drops if one place is removed: no gradient, one run of the tail a place."""
    flat = activations.flatten(2)
    place = torch.arange(flat.shape[-1])
    without = torch.vmap(lambda p: tail(torch.where(place == p, 0.0, flat).reshape(activations.shape)), chunk_size=64)
    drops = tail(activations) - without(place)
    return drops.T.reshape(activations.shape[0], *activations.shape[2:])


net = tiny.load("cnn")
photo = tiny.scenes(1, generator=torch.Generator().manual_seed(0)).images
margin = lambda logits: logits.topk(2).values @ torch.tensor([1.0, -1.0])  # a target: the best class less the second
methods: list[Method] = [grad_cam, squared_cam, occlusion_cam]  # the type that camfn asks for
maps = {method.__name__: explainer(method, net, "body")(photo, margin) for method in methods}
pictures = [photo[0], *(image.overlay(photo, image.normalize(cam))[0] for cam in maps.values())]
to_pil_image(image.montage(pictures, ["the image", *maps], columns=4, cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 2, 4

# %%
# **If it looks wrong:** A method that reads the model, the image or a file hides what it depends on. Hold yours to
# the laws of :doc:`/methods`: flips, permuted channels, batches.

# %%
# **Next:** :doc:`/contributing`, if it is published; ``camfn explain photo.jpg --method file.py:squared_cam``.
