"""
Compare a map with the boxes and masks that I have
==================================================

Where somebody drew the object, a map can be held against it: does its peak hit, how much of it is inside, which box
would it give (below, beside the digit's own)? A map may be right and miss the box, for a network may decide by the
grass beside the sheep.
"""

import torch
from torch.nn.functional import interpolate
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, metrics, tiny
from camfn.methods import eigen_cam, hires_cam

net = tiny.load("cnn")
world = tiny.scenes(20, generator=torch.Generator().manual_seed(0))
digits, mask = world.labels[:, 0], world.masks[:, 0]
boxes = [box[:1] for box in world.boxes]  # a (n, 4) an image: x0, y0, x1, y1 in pixels
fractions = torch.stack(boxes) / 64  # (20, 1, 4), as many data sets keep them
boxes = list(metrics.boxes_in_pixels(fractions, (64, 64)))

table, large = {}, interpolate(world.images, (192, 192))
pictures, captions = [*large[:3]], ["the image"] * 3
for method in (hires_cam, eigen_cam):
    cam = explainer(method, net, "body")(world.images, digits)
    heatmap = image.upsample(image.normalize(cam), (64, 64))
    table[method.__name__] = {
        "pointing_game": metrics.pointing_game(heatmap, boxes).float().mean(),
        "energy_in_box": metrics.energy_in_box(heatmap, boxes).mean(),
        "iou": metrics.iou(heatmap, boxes).mean(),
        "max_box_acc": metrics.max_box_acc(metrics.box_ious(heatmap, boxes)).mean(),
        "pxap": metrics.pxap(heatmap, mask).mean(),
        "roc_auc": metrics.roc_auc(heatmap, mask).mean(),
        "rank_accuracy": metrics.rank_accuracy(heatmap, boxes).mean(),
    }
    drawn = image.overlay(large, heatmap)
    for number, found in enumerate(image.to_boxes(heatmap, threshold=0.5, largest=True)[:3]):
        both = torch.cat([boxes[number], found]) * 3  # the digit's box, and the one that the map gives
        pictures.append(image.boxes(drawn[number], both, classes=[0, 1]))
        captions.append(method.__name__)
for name in table["hires_cam"]:
    print(f"{name:20}", *(f"{column} {float(values[name]):.2f}  " for column, values in table.items()))
to_pil_image(image.montage(pictures, captions, columns=3))
# sphinx_gallery_thumbnail_cell = 0, 3

# %%
# **If it looks wrong:** Numbers are high for a centered blob too, wherever objects stand in the middle: grade
# ``evaluate.center`` beside your method. ``energy_in_box`` grows with the box; compare it with the box's share of the
# image. Boxes are x0, y0, x1, y1: another order gives low numbers and no error.

# %%
# **Next:** :doc:`/metrics` says first what each metric cannot say; :ref:`sphx_glr_howto_plot_35_removal.py` needs no
# boxes. ``camfn evaluate photos/ --metrics pointing_game,pxap`` reads boxes from a table.
