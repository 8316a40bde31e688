"""
Explain a model of which I see only the scores
==============================================

No gradient and no layer: these methods change the image and watch the score. What stands behind the score may be
anything, a service too. They differ in what they hide: random halves (RISE), one square (occlusion), designs that
separate the parts (Sobol, HSIC), and regions that join one by one.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import image, tiny
from camfn.methods import hsic, occlusion, region_search, rise, sobol

net = tiny.load("cnn")
world = tiny.scenes(1, generator=torch.Generator().manual_seed(0))
photo, digit = world.images, int(world.labels[0, 0])
asked = 0


def score(images):
    """What a service would answer to arrays: the probability of one digit, (B,)."""
    global asked
    arrays = images.numpy()
    asked += len(arrays)
    with torch.no_grad():
        return net(torch.from_numpy(arrays))[:, digit].sigmoid()


see = {"forward": score, "inputs": photo}  # each method takes its image where others take activations
questions = {
    "occlusion": lambda: occlusion(photo, **see, patch=12, stride=4),
    "rise": lambda: rise(photo, **see, samples=800, centered=True, generator=torch.Generator().manual_seed(0)),
    "sobol": lambda: sobol(photo, **see, designs=4),
    "hsic": lambda: hsic(photo, **see, samples=500, generator=torch.Generator().manual_seed(0)),
    "region_search": lambda: region_search(photo, **see, grid=8, steps=6),
}
pictures, captions = [photo[0]], [f"where is the {digit}?"]
for name, ask in questions.items():
    asked = 0
    cam = ask()
    inside = image.upsample(cam.clamp(min=0), (64, 64))[0]
    share = (inside * world.masks[0, 0]).sum() / (inside * world.masks[0].any(0)).sum()
    print(f"{name:14} {asked:5} forwards, {share:.0%} of what lies on the two digits is on the {digit}")
    pictures.append(image.overlay(photo, image.normalize(cam))[0])
    captions.append(name)
to_pil_image(image.montage(pictures, captions, columns=6, cell=(180, 180)))
# sphinx_gallery_thumbnail_cell = 3, 6

# %%
# **If it looks wrong:** Speckles are samples that are too few: RISE takes 4000 as it comes. Without ``centered=True``
# RISE weighs masks by the score itself and lights what is always there. Hidden places are black; where black means
# something to the network, give a ``baseline=``.

# %%
# **Next:** :doc:`/methods` has their costs; :ref:`sphx_glr_howto_plot_25_regions.py`. With an ``explainer`` they stand
# where any method does: ``explainer(rise, net, layer)(photo, digit)``; :doc:`/multimodal` asks for a word.
