"""
Ask whether the map depends on what the network learned
=======================================================

Draw the weights of the network anew, from the head down, and watch the map. A map that stays is one of the image, as
edges are. The same with the class: a map that stays when another class is asked explains none.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, metrics, tiny
from camfn.methods import eigen_cam, hires_cam
from camfn.network import guided_backprop

net = tiny.load("cnn")
world = tiny.scenes(2, generator=torch.Generator().manual_seed(0))
photos, digits = world.images, world.labels[:, 0]


def of_layer(method):
    """A function of a network and classes: maps of the photos."""
    return lambda model, classes: image.normalize(explainer(method, model, "body")(photos, classes))


def of_pixels(model, classes):
    """The same for a gradient in the image; channels are summed."""
    return image.normalize(guided_backprop(model)(photos, classes).abs().sum(1))


makers = {"hires_cam": of_layer(hires_cam), "eigen_cam": of_layer(eigen_cam), "guided_backprop": of_pixels}
layers = ["head", "body.4", "body.2", "body.0"]
seed = torch.Generator().manual_seed
print(f"{'correlation with the map before':32}", *(f"{layer:>8}" for layer in layers), "another class")
for name, make in makers.items():
    cascade = metrics.randomization(lambda model, m=make: m(model, digits), net, names=layers, generator=seed(0))
    other = metrics.random_logit(lambda classes, m=make: m(net, classes), digits, 10, generator=seed(0))
    print(f"{name:32}", *(f"{value:8.2f}" for value in [*cascade.similarity.mean(0).tolist(), float(other.mean())]))
    once = metrics.efficient_randomization(lambda model, m=make: m(model, digits), net, generator=seed(0))
    print(f"  all weights at once: the entropy of its values changes by {float(once.mean()):+.0%}")

pictures, captions = [], []
for step, model in [("trained", net), *metrics.randomized(net, generator=seed(0), names=layers)]:
    pictures.append(image.overlay(photos[:1], makers["hires_cam"](model, digits)[:1])[0])
    captions.append("hires_cam, trained" if model is net else f"and {step} anew")
for step, model in [("trained", net), *metrics.randomized(net, generator=seed(0), names=layers)]:
    pictures.append(image.relief(guided_backprop(model)(photos, digits))[0])
    captions.append("guided_backprop, trained" if model is net else f"and {step} anew")
to_pil_image(image.montage(pictures, captions, columns=5, cell=(180, 180)))
# sphinx_gallery_thumbnail_cell = 0, 5

# %%
# ``redraw=`` takes another way to draw a parameter, such as one that leaves BatchNorm alone:


def only_convolutions(name, value, generator):
    """Draw weights of four dimensions anew, by camfn's own rule, and keep all others."""
    return metrics.resampled(name, value, generator) if value.ndim == 4 else value


(_, model), *_ = metrics.randomized(net, generator=seed(0), names=["body"], redraw=only_convolutions)
print("the head is as it was:", torch.equal(model.head.weight, net.head.weight))

# %%
# **If it looks wrong:** A layer above the map's own may change nothing of it: Eigen-CAM reads no head. A similarity of
# two noisy maps is high where both are mostly 0; look at the pictures.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_13_believe_it.py` asks this and more by one call; :doc:`/check`.
