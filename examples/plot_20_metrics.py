"""
Measure a map
=============

``camfn.metrics`` are functions of tensors with one number a sample. Deletion and insertion follow the score while
pixels go and come; look at the curve, not at its area alone.
"""

import torch
from PIL import Image
from skimage.data import chelsea
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from camfn import explainer, image, metrics
from camfn.methods import grad_cam, random_cam
from camfn.zoo import load

loaded = load("lite0")
photo = Image.fromarray(chelsea())
view, images = pil_to_tensor(loaded.view(photo))[None] / 255, loaded.preprocess(photo)[None]
score = metrics.scores_of(loaded.model, images)  # the probability of the top class, fixed on this photo
noise = torch.Generator().manual_seed(0)

pictures, captions = [view[0]], ["the photo"]
for method in (grad_cam, random_cam):
    options = {"generator": noise} if method is random_cam else {}
    cam = explainer(lambda *sides, m=method, o=options: m(*sides, **o), loaded.model, "bn2")(images)
    heatmap = image.upsample(image.normalize(cam), images.shape[-2:])
    lost = metrics.deletion(score, images, heatmap, step=0.1).auc
    found = metrics.insertion(score, images, heatmap, step=0.1).auc
    drop = metrics.average_drop(score(images), score(metrics.masked(images, heatmap)))
    print(f"{method.__name__:10} deletion {lost[0]:.3f}  insertion {found[0]:.3f}  average drop {drop[0]:.3f}")
    pictures.append(image.overlay(view, heatmap)[0])
    captions.append(method.__name__)
to_pil_image(image.montage(pictures, captions, cell=(260, 260)))
# sphinx_gallery_thumbnail_cell = 1, 3

# %%
# **If it looks wrong:** A number alone says little: compare with a random map and with a centered blob. Average drop
# is about 0 for a map that shows everything.

# %%
# **Next:** :doc:`/metrics` says first what each metric cannot say; :ref:`sphx_glr_howto_plot_21_evaluate.py`.
