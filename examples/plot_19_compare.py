"""
Compare methods on one photo, for a paper
=========================================

One forward and one backward serve every method of activations and gradients. Ask for a class that is not the largest
thing in the photo: that is where methods part. ``image.figure`` lays the maps out as a figure: PDF or SVG with vector
text, fonts embedded, one bar of colors, and colors that color-blind readers can tell apart.
"""

import tempfile

from PIL import Image
from skimage.data import coffee

from camfn import capture, image, methods
from camfn.zoo import load

loaded = load("lite0")
photo = Image.fromarray(coffee()).crop((100, 0, 500, 400)).resize((448, 448))
view = image.read(photo)
run = capture(loaded.model, "bn2")
chosen = [methods.grad_cam, methods.layer_cam, methods.grad_cam_plusplus, methods.eigen_cam, methods.fem]
classes = ["espresso", "wooden spoon"]

maps = []
for name in classes:
    captured = run((view[None] * 255 - 127) / 128, loaded.classes.index(name))
    maps.append([method(*captured) for method in chosen])  # raw maps, (1, 14, 14)
heads = [method.__name__ for method in chosen]
image.figure([view, view], maps, heads, classes, width=6.75)
# sphinx_gallery_thumbnail_cell = 1, 6

# %%
# The same with the sign kept, on one scale a method: blue speaks against the class. ``save`` writes .pdf, .svg or .png.

figure = image.figure([view, view], maps, heads, classes, signed=True, scale="column", width=6.75)
image.save(figure, f"{tempfile.mkdtemp()}/figure.pdf")
image.to_pil(figure.to_bytes("png", dpi=160))

# %%
# **If it looks wrong:** Maps that are equal are no mistake: at the last layer of a pooled network, Grad-CAM,
# XGrad-CAM and HiResCAM are one map (:doc:`/concepts`). Rows that are equal for both classes come from methods that
# never ask for the class. Maps of different methods have different units: give them one scale (``"row"``, ``"all"``)
# only where they share one.

# %%
# **Next:** On the command line: ``camfn compare a.jpg b.jpg --methods "grad_cam, layer_cam, fem" --out figure.pdf``.
# :ref:`sphx_glr_howto_plot_24_picture.py` for pictures; :ref:`sphx_glr_howto_plot_21_evaluate.py` for numbers.
