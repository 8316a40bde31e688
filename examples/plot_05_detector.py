"""
Explain a box of a detector, also of my own YOLO
================================================

A detector gives one score a box, so the target is a box. Two functions of the outputs are enough to read any
detector: the boxes of its candidates, and their class scores. For torchvision's and for DETR's outputs there are
``targets.torchvision_head()`` and ``targets.detr_head()``.
"""

import torch
from torchvision.transforms.functional import to_pil_image

from camfn import capture, image, targets, tiny
from camfn.methods import odam

net = tiny.load("detector")  # (B, 256, 15): center, size, objectness, ten classes, as a YOLO has it
world = tiny.scenes(1, digits=3, generator=torch.Generator().manual_seed(3))


def corners(out):
    """Boxes as x0, y0, x1, y1."""
    return torch.cat([out[..., :2] - out[..., 2:4] / 2, out[..., :2] + out[..., 2:4] / 2], -1)


yolo = targets.BoxHead(boxes_of=corners, scores_of=lambda out: out[..., 4:5].sigmoid() * out[..., 5:].softmax(-1))
run = capture(net, "body.3")
maps = torch.vmap(lambda box: odam(*run(world.images, targets.overlap_score(box, head=yolo))))(world.boxes[0])
pictures = []
for cam, box, label in zip(maps, world.boxes[0], world.labels[0].tolist(), strict=True):
    picture = image.overlay(world.images, image.normalize(cam))[0]
    large = torch.nn.functional.interpolate(picture[None], scale_factor=4)[0]
    pictures.append(image.boxes(large, 4 * box[None], [str(label)]))
to_pil_image(image.montage(pictures, [f"why this {n}?" for n in world.labels[0].tolist()], cell=(256, 256)))
# sphinx_gallery_thumbnail_cell = 1, 3

# %%
# **If it looks wrong:** Grad-CAM averages the gradient of one box over all places, and then shows every object: take
# ODAM or HiResCAM. A box that suppression removes has no score; give it as coordinates to ``overlap_score``, or take
# ``targets.unsuppressed(model)``.

# %%
# **Next:** :doc:`/tasks` for Faster R-CNN, RetinaNet and SSD; :ref:`sphx_glr_howto_plot_06_segmentation.py`. On the
# command line: ``--task detect``.
