"""
Choose the layer
================

A map has the resolution of its layer. Late layers know the class and are coarse; early ones are fine and see edges.
``layers.suggest`` tries which layers have places, whether the score depends on them, and says why it puts one first.
"""

from PIL import Image
from skimage.data import astronaut
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from camfn import capture_many, image, layers
from camfn.methods import layer_cam
from camfn.zoo import load

loaded = load("lite0")
photo = Image.fromarray(astronaut()).resize((448, 448))
view = pil_to_tensor(photo)[None] / 255
images = (view * 255 - 127) / 128  # lite0's own normalization; at twice its size the maps are finer

for found in layers.suggest(loaded.model, images)[:4]:
    print(f"{found.name:10}  {found.spatial}  {found.channels:4} channels  {found.reason}")

names = ["bn2", "blocks.5", "blocks.4", "blocks.2"]
captured = capture_many(loaded.model, names)(images, loaded.classes.index("crash helmet"))  # one forward, one backward
maps = {name: layer_cam(*captured[name]) for name in names}
pictures = [image.overlay(view, image.normalize(cam))[0] for cam in maps.values()]
to_pil_image(
    image.montage(pictures, [f"{n}, {tuple(c.shape[1:])}" for n, c in maps.items()], columns=4, cell=(240, 240))
)
# sphinx_gallery_thumbnail_cell = 0, 4

# %%
# **If it looks wrong:** A blank or noisy map is most often a layer too early for its method: Grad-CAM averages a
# gradient over places, so take LayerCAM or HiResCAM there. A layer behind the global pooling has no places, and is
# refused.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_15_several_layers.py` to join several;
# :ref:`sphx_glr_howto_plot_22_blank_map.py`; :doc:`/concepts` on layouts.
