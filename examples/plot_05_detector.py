"""
Explain a box of a detector, also of my own YOLO
================================================

A detector gives one score a box, so the target is a box. Two functions of the outputs are enough to read any
detector: the boxes of its candidates, and their class scores. For torchvision's and for DETR's outputs there are
``targets.torchvision_head()``, ``targets.detr_head()`` and ``targets.yolo_head()``.
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
# A weak map beside a strong one is hard to see. ``image.inside`` stretches each map in its own box, and leaves nothing
# outside of it: a picture for looking, no longer one for comparing.

heats = image.inside(maps[:, 0], world.boxes[0], world.images.shape[-2:])
drawn = [image.overlay(world.images, heat[None])[0] for heat in heats]
to_pil_image(image.montage(drawn, [f"{n}, inside of its box" for n in world.labels[0].tolist()], cell=(256, 256)))

# %%
# A YOLO of Ultralytics returns its predictions and, beside them, what its levels said before any suppression.
# ``targets.yolo_head`` reads these, so that a candidate keeps its number in every image. A network that does the same:


class Yolo(torch.nn.Module):
    """Outputs in the form of Ultralytics' networks: one level, a candidate every four pixels."""

    def __init__(self):
        super().__init__()
        self.net = net

    def forward(self, x):
        """The predictions, and distances of the sides, logits and levels."""
        out = self.net(x).mT  # (B, 15, 256)
        place = (torch.arange(16) + 0.5).expand(16, -1)
        center, half = torch.stack([place.flatten(), place.T.flatten()]), out[:, 2:4] / 8  # in cells of four pixels
        sides = torch.cat([center - out[:, :2] / 4 + half, out[:, :2] / 4 + half - center], 1)
        return out, {"boxes": sides, "scores": out[:, 5:] + out[:, 4:5], "feats": [out.unflatten(2, (16, 16))]}


reads = targets.yolo_head(strides=(4,))  # targets.head_for(model) finds it for a network of Ultralytics
same = corners(net(world.images))
print("the same boxes:", torch.allclose(reads.boxes_of(Yolo()(world.images)), same, atol=1e-4))
one = odam(*capture(Yolo(), "net.body.3")(world.images, targets.overlap_score(world.boxes[0, 0], head=reads)))
print(tuple(one.shape), "a map of the first box")

# %%
# **If it looks wrong:** Grad-CAM averages the gradient of one box over all places, and then shows every object: take
# ODAM or HiResCAM. A box that suppression removes has no score; give it as coordinates to ``overlap_score``, or take
# ``targets.unsuppressed(model)``.

# %%
# **Next:** :doc:`/tasks` for Faster R-CNN, RetinaNet and SSD; :ref:`sphx_glr_howto_plot_06_segmentation.py`. On the
# command line: ``--task detect``.
