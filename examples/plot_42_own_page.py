"""
Put maps of my own on a page to explore
=======================================

``camfn explore`` makes the maps that it shows. Maps from elsewhere have a page too: of attention, of the whole network,
of another program. Say what is shown (photos, targets, methods, layers), and hand over a tensor for each choice, or the
reason why there is none.
"""

import tempfile
from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, explore, image, network, tiny
from camfn.attention import attention_explainer, attention_rollout, gradient_rollout
from camfn.methods import hires_cam

vit = tiny.load("vit")
world = tiny.scenes(2, generator=torch.Generator().manual_seed(0))
layers = ["blocks.0", "blocks.1"]
methods = {
    "hires_cam": [explainer(hires_cam, vit, layer) for layer in layers],
    "gradient_rollout": attention_explainer(gradient_rollout, vit),  # of all blocks: the same for both layers
    "attention_rollout": attention_explainer(attention_rollout, vit),
    "input_gradient": lambda photo, digit: network.input_gradient(vit)(photo, digit).sum(1),
}

photos = []
for number, (picture, digits) in enumerate(zip(world.images, world.labels.tolist(), strict=True)):
    score = vit(picture[None])[0].detach().sigmoid()
    maps = []
    for digit in digits:
        of_all = {name: made(picture[None], digit)[0] for name, made in methods.items() if callable(made)}
        by_layer = [explain(picture[None], digit)[0] for explain in methods["hires_cam"]]
        maps.append((tuple(by_layer), *((cam, "not a map of this layer") for cam in of_all.values())))
    targets = tuple(explore.ShownTarget(str(d), f"the digit {d}", f"{score[d]:.0%}") for d in digits)
    photos.append(explore.ShownPhoto(f"scene {number}", picture, targets, tuple(maps)))

notes = ["a layer's activations and gradients", "attention and gradients", "attention alone", "single pixels"]
found = explore.Explored(
    tuple(photos),
    tuple(
        explore.ShownMethod(name, note, asks=name != "attention_rollout")
        for name, note in zip(methods, notes, strict=True)
    ),
    tuple(explore.ShownLayer(layer) for layer in layers),
)
file = explore.page(found, Path(tempfile.mkdtemp(), "mine.html"), title="Two scenes, and where their digits are")
print(found, f"{file.stat().st_size / 1000:.0f} kB: one file, which opens by a double click")

shown = [cams[0] for cams in photos[0].maps[0]]
pictures = [image.overlay(world.images[:1], image.normalize(cam[None]))[0] for cam in shown]
to_pil_image(image.montage([world.images[0], *pictures], ["the scene", *methods], columns=5, cell=(190, 190)))
# sphinx_gallery_thumbnail_cell = 2, 5

# %%
# In a notebook, the value itself as the last line of a cell shows the page, as it does here.
# ``explore.widget(found)`` shows it with attributes that follow the choice.

found

# %%
# **If it looks wrong:** All photos have the same methods and layers. A map is raw and signed, at its own resolution:
# the page scales it, and says which maps are equal. A map that lies beside its photo was made of another crop.

# %%
# **Next:** :doc:`/explore`; :ref:`sphx_glr_howto_plot_07_transformer.py`. On the command line: ``camfn explore
# photo.jpg --methods cheap --layers auto:3 --out explore.html``.
