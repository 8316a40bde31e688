"""
Find the concepts of a set of images, without a class
=====================================================

Deep Feature Factorization takes the activations of all images apart into a few concepts, each a direction of the
channels with its own map, and the head says what it thinks of each.
"""

import torch
from PIL import Image
from skimage import data
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from camfn import factorize, image, observe, resume
from camfn.zoo import load

loaded = load("lite0")
photos = [Image.fromarray(read()) for read in (data.astronaut, data.chelsea, data.coffee, data.rocket)]
views = torch.stack([pil_to_tensor(loaded.view(photo).resize((448, 448))) for photo in photos]) / 255
images = torch.stack([loaded.preprocess(photo) for photo in photos])

activations, _ = observe(loaded.model, "bn2")(images)
found = factorize.deep_feature_factorization(activations, 5, negative="relu")  # maps (4, 5, 7, 7), concepts (5, C)
strength = found.maps.amax((0, 2, 3))
scores = factorize.concept_scores(found.concepts, loaded.model.classifier, strength=strength)
labels = [best[0].name for best in factorize.top_classes(scores, loaded.classes)]
print(labels)
pictures = image.concepts(views, found.maps, labels)
to_pil_image(image.montage(list(pictures), columns=4, padding=16))
# sphinx_gallery_thumbnail_cell = 0, 4

# %%
# The parts of it: factors of a matrix, the same concepts in another photo, what the rest of the network says of each
# concept, and how much of the score rests on it.

matrix = activations.relu().movedim(1, -1).flatten(0, 2)  # a row a place
factors = factorize.nmf(matrix, 5)  # (places, 5) and (5, C)
weights = factorize.nnls(matrix[:49], factors.concepts)  # the first photo again, the concepts fixed
again = factorize.project(activations[:1], found.concepts, negative="relu")  # the same in one call, (1, 5, 7, 7)
tail = resume(loaded.model, "bn2")
behind = factorize.tail_scores(found.concepts, tail(images[:1]), activations[:1])
shuttle = loaded.classes.index("space shuttle")
share = factorize.concept_importance(again, found.concepts, lambda a: tail(images[:1])(a)[:, shuttle], designs=4)
print(tuple(weights.shape), tuple(behind.shape), [round(value, 2) for value in share.flatten().tolist()])
print(tuple(factorize.crops(images, 112, overlap=0.5).shape), "crops, of which CRAFT learns concepts")

# %%
# **If it looks wrong:** Concepts that mix two things want a higher rank; several of one thing, a lower one. The name
# of a concept is the class that the head gives to it alone, which need not be in the image.

# %%
# **Next:** The algorithm in :doc:`/methods`; :doc:`/reference/camfn.factorize`. On the command line: ``camfn
# factorize photos/ --rank 5``.
