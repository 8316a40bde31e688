"""
Explain a layer whose output is no (B, C, H, W)
===============================================

Transformers give tokens, windows, tiles or packed patches. A layout is a pair of functions that lays them out as a map
and back. ``layout="auto"`` decides by the shapes and the model; where it cannot, name the one that fits, and look.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, layout, tiny
from camfn.methods import hires_cam

vit = tiny.load("vit")
world = tiny.scenes(1, generator=torch.Generator().manual_seed(0))
reading = layout.find(vit, "blocks.2.norm1", world.images)
print(f"{reading.name}, {reading.spatial}: {reading.reason}")

places = torch.arange(64.0)  # the number of each place, in the order in which it stands in the output
ways = {
    "tokens, one in front": layout.tokens((8, 8), prefix=1).to_map(torch.cat([torch.zeros(1), places])[None, :, None]),
    "channels_last": layout.channels_last().to_map(places.reshape(1, 8, 8, 1)),
    "windows of 4 x 4": layout.windows((8, 8), (4, 4)).to_map(places.reshape(4, 16, 1)),
    "tiles, 2 x 2": layout.tiles(2, 2).to_map(places.reshape(4, 1, 4, 4)),
    "packed, merged by 2": layout.packed([(1, 8, 8)], merge=2).to_map(places.reshape(64, 1)),
    "unrolled": layout.unrolled((8, 8), [(2, 2)]).to_map(places.reshape(1, 64, 1)),
    "spans, from below": layout.spans([range(8 * row, 8 * row + 8) for row in range(7, -1, -1)], (8, 8)).to_map(
        places.reshape(1, 64, 1)
    ),
}
order = [image.colorize(cam[0, :1] / 63)[0].repeat_interleave(20, 1).repeat_interleave(20, 2) for cam in ways.values()]
cam = explainer(hires_cam, vit, "blocks.2.norm1", layout=layout.tokens((8, 8), prefix=1))(
    world.images, world.labels[:, 0]
)
order.append(image.overlay(world.images, image.normalize(cam))[0])
to_pil_image(image.montage(order, [*ways, "the first laid out right"], columns=4, cell=(200, 200)))
# sphinx_gallery_thumbnail_cell = 2, 4

# %%
# Blue is the first place of the output, red the last.

# %%
# **If it looks wrong:** A map in stripes or in shuffled blocks has a wrong layout: the picture above is what each order
# does to a ramp. A class token that is taken for a place shifts all others by one.

# %%
# **Next:** :doc:`/concepts` on layouts; :doc:`/reference/camfn.layout`; :ref:`sphx_glr_howto_plot_07_transformer.py`.
