"""
Watch the maps while a network trains
=====================================

A ``MapRecorder`` maps a few fixed photos each so many steps, and changes nothing of the training. Here it watches three
trainings of one network: without a loss on its maps, with the share of the map outside of the digit's box, and with the
distance of the map from that of the flipped image.
"""

import copy
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.transforms.functional import to_pil_image

from camfn import capture, image, metrics, tiny
from camfn.methods import hires_cam
from camfn.training import MapRecorder


def maps(net, images, digits):
    """Maps of a class a scene, which keep their graph, and the outputs."""
    captured = capture(net, "body", differentiable=True)(images, digits)
    return hires_cam(*captured).relu(), captured.outputs


def outside(heat, other, inside):
    """Share of the map outside of the box, its energy there over all energy."""
    return ((heat * (1 - inside)).sum((1, 2)) / (heat.sum((1, 2)) + 1e-6)).mean()


def disagreement(heat, other, inside):
    """Distance of the map from that of the flipped image, flipped back; both with a sum of 1."""
    first, second = (x / (x.sum((1, 2), keepdim=True) + 1e-6) for x in (heat, other.flip(2)))
    return (first - second).abs().sum((1, 2)).mean()


def boxes_on_grid(world, side):
    """Where the first digit's box lies on the grid of the layer, (B, side, side)."""
    whole = metrics.box_masks([box[:1] for box in world.boxes], world.images.shape[2:]).float()
    return torch.nn.functional.adaptive_max_pool2d(whole[:, None], side)[:, 0]


def measured(net, world):
    """Share of the energy on the digit's box, agreement under flips, and scenes whose two digits are both right."""
    digits = world.labels[:, 0]
    heat, outputs = (x.detach() for x in maps(net, world.images, digits))
    flipped = maps(net, world.images.flip(3), digits)[0].detach()
    best = outputs.topk(2).indices.sort(1).values
    right = (best == world.labels.sort(1).values).all(1).float().mean()
    inside = boxes_on_grid(world, heat.shape[1])
    return [1 - outside(heat, flipped, inside), 1 - disagreement(heat, flipped, inside) / 2, right]


held_out = tiny.scenes(100, digits=2, generator=torch.Generator().manual_seed(2))
trained, folder = tiny.load("cnn"), Path(tempfile.mkdtemp())
rows = [("before", measured(trained, held_out))]
losses = {"cross-entropy alone": (None, 0), "and energy in the box": (outside, 1), "and flips": (disagreement, 0.2)}
for name, (loss_of_maps, weight) in losses.items():
    net, generator = copy.deepcopy(trained).train(), torch.Generator().manual_seed(5)
    optimizer = torch.optim.Adam(net.parameters(), 5e-4)
    recorder = MapRecorder(
        held_out.images[:2], "body", target=held_out.labels[:2, 0], every=20, out=folder / name, columns=5
    )
    for step in range(81):
        recorder(net, step)
        world = tiny.scenes(16, digits=2, generator=generator, split="train")
        digits = world.labels[:, 0]
        heat, outputs = maps(net, world.images, digits)
        there = torch.zeros_like(outputs).scatter(1, world.labels, 1.0)
        loss = binary_cross_entropy_with_logits(outputs, there)
        if loss_of_maps is not None:
            other = maps(net, world.images.flip(3), digits)[0] if loss_of_maps is disagreement else heat
            loss = loss + weight * loss_of_maps(heat, other, boxes_on_grid(world, heat.shape[1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rows.append((name, measured(net.eval(), held_out)))

print(f"{'':22}  on the digit  agree under flips  both digits right")
for name, values in rows:
    print(f"{name:22}  {values[0]:12.0%}  {values[1]:17.0%}  {values[2]:17.0%}")
# sphinx_gallery_thumbnail_cell = 4, 5

# %%
# The strip of one photo, with the loss on the energy. ``r`` is the correlation with the map before.

to_pil_image(image.read(folder / "and energy in the box" / "photo-1.png"))

# %%
# **If it looks wrong:** A map that moves to and fro while the loss stands still says that the evidence is not settled.
# A loss on maps may cost accuracy, as the one on flips does here, for a flip makes another shape of most digits: print
# both.

# %%
# **Next:** :ref:`sphx_glr_howto_plot_17_training.py`; :doc:`/training`.
