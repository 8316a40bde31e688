"""
Explain many images fast: batch, prepare, compile
=================================================

A batch shares one forward. ``prepare`` folds BatchNorm and freezes a copy for many explanations. ``torch.compile``
makes one graph of explanation and picture.
"""

import time

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, prepare, tiny
from camfn.methods import grad_cam

net = tiny.load("cnn")
world = tiny.scenes(8, generator=torch.Generator().manual_seed(0))
explain = explainer(grad_cam, net, "body")


def heatmaps(images, classes):
    """Raw maps as pictures from 0 to 1, at the size of the images."""
    return image.upsample(image.normalize(explain(images, classes)), images.shape[-2:])


# leave out backend="eager" where a compiler is installed
compiled = torch.compile(heatmaps, fullgraph=True, backend="eager")
assert torch.allclose(compiled(world.images, world.labels[:, 0]), heatmaps(world.images, world.labels[:, 0]), atol=1e-5)

ready = explainer(grad_cam, prepare(net, world.images), "body")
calls = {"one by one": lambda: [explain(x[None], 3) for x in world.images], "a batch": lambda: ready(world.images, 3)}
for name, call in calls.items():
    call()
    start = time.perf_counter()
    call()
    print(f"{name}: {1000 * (time.perf_counter() - start):.0f} ms")
pictures = image.overlay(world.images, heatmaps(world.images, world.labels[:, 0]))
to_pil_image(image.montage(list(pictures), columns=8, cell=(120, 120)))
# sphinx_gallery_thumbnail_cell = 4, 8

# %%
# **If it looks wrong:** Compiled code that breaks off names the module that broke it: explain such a network outside
# of the compiler. The first call of each is slower than the next.

# %%
# **Next:** :doc:`/compile`, :doc:`/benchmarks`. In a server: make the explainer once; it holds no state and is safe
# in threads.
