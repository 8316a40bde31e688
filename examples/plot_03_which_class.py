"""
Ask for a class, a difference of classes, or all of them
========================================================

The target says what the map explains: an index, one class less another, a class against those most like it, or a
thousand at once. All of them come from one forward.
"""

import torch
from PIL import Image
from skimage.data import camera
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from camfn import capture, image
from camfn.methods import grad_cam
from camfn.targets import class_score, contrast
from camfn.zoo import load

loaded = load("lite0")
view = pil_to_tensor(Image.fromarray(camera()).convert("RGB").resize((448, 448)))[None] / 255
images = (view * 255 - 127) / 128
run = capture(loaded.model, "bn2")
tripod, reflex = (loaded.classes.index(name) for name in ("tripod", "reflex camera"))

questions = {
    "tripod": tripod,
    "reflex camera": reflex,
    "tripod - reflex camera": class_score(tripod) - class_score(reflex),
    "contrast(tripod)": contrast(tripod),  # against the three classes with the nearest logits (Finer-CAM)
}
maps = [grad_cam(*run(images, target)) for target in questions.values()]
every_class = torch.vmap(lambda target: grad_cam(*run(images, target)))(torch.arange(1000))
print(tuple(every_class.shape), "one forward, a thousand maps")
pictures = [image.overlay(view, image.normalize(cam))[0] for cam in maps]
to_pil_image(image.montage(pictures, list(questions), columns=4, cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 2, 4

# %%
# **If it looks wrong:** If two classes give one map, the method may not ask for the class (Eigen-CAM, KPCA-CAM, FEM),
# or both classes rest on the same part: the contrast shows what sets them apart. A class may be asked for that the
# network does not believe in; print its probability beside the map.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_10_embeddings.py`, :ref:`sphx_glr_howto_plot_12_numbers_labels_captions.py`; all
# targets in :doc:`/words` and in :doc:`/reference/camfn.targets`.
