"""
Find the concepts of one class, and how much each counts
========================================================

CRAFT cuts images of a class into crops, factors the crops' activations into a few concepts, and measures how much of
the class's score rests on each: a share of its variance, Sobol's total index. A map says where a concept is, and the
strongest crops show what it is.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import factorize, image, observe, resume, tiny

net, digit = tiny.load("cnn"), 4
world = tiny.scenes(120, generator=torch.Generator().manual_seed(0))
images = world.images[(world.labels == digit).any(1)][:20]  # images that the network takes for the class

found = factorize.craft(images, observe(net, "body"), resume(net, "body"), digit, 4, size=24, overlap=0.5)
importance = found.importance  # (4,): the mean over the images
order = importance.argsort(descending=True).tolist()

pictures, captions = [], []
for concept in order:
    strongest = image.montage(list(found.strongest(concept, 4)), columns=2, cell=(120, 120), padding=0)
    where = image.overlay(images[:1], image.normalize(found.maps[:1, concept]))[0]
    pictures += [strongest, where]
    captions += [f"importance {importance[concept]:.2f}", f"its map, peak {found.maps[0, concept].max():.0f}"]
to_pil_image(image.montage(pictures, captions, columns=4, cell=(220, 220)))
# sphinx_gallery_thumbnail_cell = 0, 4

# %%
# **If it looks wrong:** Two concepts that show one thing want a lower ``rank``, a concept that mixes two a higher one.
# Crops should show a part: a ``size`` near the object shows the class alone. Importance says nothing about the sign.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_16_concepts.py` without a class; :doc:`/reference/camfn.factorize`. On the command
# line: ``camfn concepts photos/ --class rust``.
