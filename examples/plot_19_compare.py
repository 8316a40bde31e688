"""
Compare methods on one photo, for a paper
=========================================

One forward and one backward serve every method of activations and gradients. Ask for a class that is not the largest
thing in the photo: that is where methods part.
"""

from PIL import Image
from skimage.data import coffee
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from camfn import capture, image, methods
from camfn.zoo import load

loaded = load("lite0")
photo = Image.fromarray(coffee()).crop((100, 0, 500, 400)).resize((448, 448))
view = pil_to_tensor(photo)[None] / 255
run = capture(loaded.model, "bn2")
chosen = [
    methods.grad_cam,
    methods.hires_cam,
    methods.layer_cam,
    methods.grad_cam_plusplus,
    methods.eigen_cam,
    methods.fem,
]

pictures, captions = [], []
for name in ("espresso", "wooden spoon"):
    captured = run((view * 255 - 127) / 128, loaded.classes.index(name))
    pictures += [image.overlay(view, image.normalize(method(*captured)))[0] for method in chosen]
    captions += [f"{method.__name__}: {name}" for method in chosen]
to_pil_image(image.montage(pictures, captions, columns=6, cell=(200, 200)))

# %%
# **If it looks wrong:** Maps that are equal are no mistake: at the last layer of a pooled network, Grad-CAM,
# XGrad-CAM and HiResCAM are one map (:doc:`/concepts`). Rows that are equal for both classes come from methods that
# never ask for the class.

# %%
# **Next:** As a PDF with a color bar and vector text: ``camfn explain photo.jpg --target espresso --figure
# figure.pdf``; as a picture: ``camfn compare``. :ref:`sphx_glr_howto_plot_21_evaluate.py` for numbers.
# sphinx_gallery_thumbnail_cell = 1, 6
