"""
Choose the score: a logit, a probability, or a function of my own
=================================================================

The map explains one number. A logit speaks for a class; a probability speaks for it and against all others, and fades
where the network is sure. Any function of the outputs will do, and scores add, subtract and scale.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, functional, image, targets, tiny
from camfn.methods import hires_cam

net = tiny.load("cnn")
world = tiny.scenes(1, generator=torch.Generator().manual_seed(0))
first, second = world.labels[0].tolist()
explain = explainer(hires_cam, net, "body")

margin = targets.Score(lambda outputs: targets.logits_of(outputs).topk(2).values @ torch.tensor([1.0, -1.0]))
scores = {
    f"logit of {first}": targets.class_score(first),
    "its probability": targets.class_probability(first),
    "log-probability": targets.class_log_probability(first),
    "rest: logit + log p": targets.rest(first),
    "best less the next": margin,
    f"2 x {first} - {second}": 2 * targets.class_score(first) - targets.class_score(second),
}
with torch.no_grad():
    outputs = net(world.images)
for name, score in scores.items():
    print(f"{name:20} {float(targets.as_score(score)(outputs)):9.4f}")
maps = [explain(world.images, score) for score in scores.values()]
pictures = [image.overlay(world.images, image.normalize(cam))[0] for cam in maps]
to_pil_image(image.montage(pictures, list(scores), columns=6, cell=(180, 180)))
# sphinx_gallery_thumbnail_cell = 0, 6

# %%
# A network of one output asks for its side. What stands at a place moves with the image, if the score says how:

one = torch.nn.Sequential(net, torch.nn.Linear(10, 1))
sides = [explainer(hires_cam, one, "0.body")(world.images, targets.binary_score(side)) for side in (True, False)]
print("the two sides are opposite:", torch.allclose(sides[0], -sides[1], atol=1e-6))

place = world.masks[:1, 0]
there = lambda mask: targets.Score(lambda seen: (seen * mask).sum((1, 2)), moved=lambda move: there(move(mask)))
mirrored = targets.moved(there(place), lambda mask: mask.flip(-1))  # what `transforms.augment` does
print("moved along:", bool(mirrored(place.flip(-1).float()) == there(place)(place.float())))

# %%
# An explainer as a function of the parameters, for derivatives and ensembles:

parameters, pure = functional(explain)
print("the same map:", torch.equal(pure(parameters, world.images, first), explain(world.images, first)))

# %%
# **If it looks wrong:** Maps that agree, as here, say that all scores rest on one place; their numbers differ. A
# probability near 1 has a gradient near 0: its map is blank or noise, take the logit. A network whose outputs are a
# dict or a list needs a score that reads them; ``targets.logits_of`` names what it looks for.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_03_which_class.py`, :ref:`sphx_glr_howto_plot_12_numbers_labels_captions.py`; all
# targets in :doc:`/reference/camfn.targets`.
