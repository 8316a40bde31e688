"""
Explain my own network and my own classes
=========================================

Any ``torch.nn.Module`` will do. ``zoo.of`` holds it together with how its photos are prepared and what its classes
are called, so that the same object works here, in ``camfn.evaluate`` and in every example of this gallery. Here the
network is a small one for digits.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, layers, tiny, zoo
from camfn.methods import grad_cam

net = tiny.load("cnn")  # yours: net = MyNetwork(); net.load_state_dict(torch.load("mine.pth")); net.eval()
mine = zoo.of(net, input_size=tiny.SIZE, resize=tiny.SIZE, mean=0.0, std=1.0, classes=tiny.DIGITS)
photo = to_pil_image(tiny.scenes(1, generator=torch.Generator().manual_seed(0)).images[0])  # Image.open("mine.jpg")

images = mine.preprocess(photo)[None]
layer = layers.suggest(mine.model, images)[0]
print(f"{layer.name}, a map of {layer.spatial}: {layer.reason}")
explain = explainer(grad_cam, mine.model, layer.name)

best = mine.model(images)[0].topk(2).indices.tolist()
maps = torch.cat([explain(images, index) for index in best])  # (2, 16, 16): raw and signed
pictures = [images[0], *image.overlay(images.expand(2, -1, -1, -1), image.normalize(maps))]
captions = ["the photo", *(f"class {mine.classes[index]}" for index in best)]
to_pil_image(image.montage(pictures, captions, cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 1, 3

# %%
# A network of a library comes by its name, with its preparation and its classes. `load` refuses an unknown name.

print("of the tiny world:", ", ".join(f"tiny:{name}" for name in tiny.NAMES))
try:
    zoo.load("tiny:resnet")
except zoo.LoadError as error:
    print(error)

# %%
# **If it looks wrong:** A network in training mode is explained in training mode: call ``.eval()``. Colors that are
# off come from a ``mean`` and ``std`` that are not those of the training. Where ``suggest`` finds no layer, its error
# lists what it tried.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_02_which_layer.py`, :ref:`sphx_glr_howto_plot_03_which_class.py`. The same on
# the command line: ``camfn explain mine.jpg --model net.py:build --weights mine.pth --classes names.txt``.
