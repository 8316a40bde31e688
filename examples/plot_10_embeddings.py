"""
Explain a similarity or an embedding
====================================

Two images are alike: where? The target is the cosine of the embedding with a reference. The other image may be
another photo, the mean of a class, or a text.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, targets, tiny
from camfn.methods import grad_cam

encoder = tiny.load("cnn")[:-1]  # embeddings, (B, 64); yours: the network without its head
world = tiny.scenes(2, generator=torch.Generator().manual_seed(0))
print(world.labels.tolist(), "are the digits of the two scenes")
with torch.no_grad():
    embeddings = encoder(world.images)

explain = explainer(grad_cam, encoder, "body")
alike = explain(world.images[:1], targets.similarity(embeddings[1]))
unlike = explain(world.images[:1], lambda out: 1 - targets.similarity(embeddings[1])(out))
pictures = [*world.images, *(image.overlay(world.images[:1], image.normalize(cam))[0] for cam in (alike, unlike))]
captions = ["this image", "the other one", "what makes it like the other", "what makes it unlike"]
to_pil_image(image.montage(pictures, captions, columns=4, cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 2, 4

# %%
# **If it looks wrong:** The similarity of an image to itself has no gradient: its map is rounding noise. Embeddings
# that are centered or whitened before they are compared need the same step in the target.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_11_clip.py`; :doc:`/tasks` for a Siamese network that runs one backbone twice.
