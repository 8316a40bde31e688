"""
Explain a vision transformer, by a layer or by attention
========================================================

Two ways lead to a map. At a layer, camfn finds which tokens are patches and in which grid. On attention, no layer is
needed, and fused attention may stay on.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, layers, tiny
from camfn.attention import (
    METHODS,
    attention_explainer,
    attention_rollout,
    gradient_rollout,
    le_grad,
    observe_attention,
)
from camfn.methods import hires_cam

vit = tiny.load("vit")
world = tiny.scenes(1, generator=torch.Generator().manual_seed(0))
found = layers.suggest(vit, world.images)[0]
print(found.name, found.spatial, found.reason)

print("on attention:", ", ".join(METHODS))
records, _ = observe_attention(vit)(world.images)  # what these methods read, from fused attention too
print(*(f"{record.name} {tuple(record.probabilities.shape)}" for record in records))

digit = int(world.labels[0, 0])
maps = {
    f"hires_cam at {found.name}": explainer(hires_cam, vit, found.name)(world.images, digit),
    "gradient_rollout": attention_explainer(gradient_rollout, vit)(world.images, digit),
    "le_grad": attention_explainer(le_grad, vit)(world.images, digit),
    "attention_rollout": attention_explainer(attention_rollout, vit)(world.images),  # asks for no class
}
pictures = [image.overlay(world.images, image.normalize(cam))[0] for cam in maps.values()]
to_pil_image(image.montage(pictures, list(maps), columns=4, cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 2, 4

# %%
# **If it looks wrong:** Spots in empty corners are often tokens that the network uses as memory (registers); raw
# attention shows them, methods with a gradient less so. Behind the last attention, patches no longer reach the class
# token: `explainer` refuses such a layer, or its map is blank.

# %%
# **Next:** :doc:`/methods` on attention; :ref:`sphx_glr_howto_plot_11_clip.py`; :doc:`/concepts` on layouts.
