"""Train the weights that ship with camfn: `python -m camfn.tiny cnn`, seeded, on one thread."""

# tested in tests/tiny/test_tiny.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._nets import DATA, FURTHER, NETS, load
from ._scenes import SIZE, Scenes, scenes

Loss = Callable[[Any, Scenes], Tensor]


def present(outputs: Tensor, world: Scenes) -> Tensor:
    """Binary cross-entropy of which digits are there."""
    there = torch.zeros_like(outputs).scatter(1, world.labels, 1.0)
    return functional.binary_cross_entropy_with_logits(outputs, there)


def segmentation(outputs: dict[str, Tensor], world: Scenes) -> Tensor:
    """Cross-entropy of each pixel; the background, nine tenths of a picture, counts a fifth."""
    truth = ((world.labels + 1)[..., None, None] * world.masks).amax(1)
    weight = torch.tensor([0.2] + [1.0] * 10)
    return functional.cross_entropy(outputs["out"], truth, weight)


def detection(outputs: Tensor, world: Scenes) -> Tensor:
    """Objectness everywhere; class and overlap where a place is within 5 pixels of a digit's center."""
    x0, y0, x1, y1 = world.boxes.unbind(-1)  # (B, D)
    places = (torch.arange(SIZE // 4) + 0.5) * 4
    y, x = (line.flatten() for line in torch.meshgrid(places, places, indexing="ij"))
    far = torch.maximum((x - ((x0 + x1) / 2)[..., None]).abs(), (y - ((y0 + y1) / 2)[..., None]).abs())
    distance, which = far.min(1)  # (B, N)
    own = distance < 5
    there = functional.binary_cross_entropy_with_logits(outputs[..., 4], own.float(), pos_weight=torch.tensor(4.0))
    label = world.labels.gather(1, which)[own]
    classes = functional.cross_entropy(outputs[..., 5:][own], label)
    center, size = outputs[..., :2][own], outputs[..., 2:4][own]
    box = world.boxes.gather(1, which[..., None].expand(-1, -1, 4))[own]
    low, high = center - size / 2, center + size / 2
    inside = (torch.minimum(high, box[:, 2:]) - torch.maximum(low, box[:, :2])).clamp(min=0).prod(-1)
    union = size.prod(-1) + (box[:, 2:] - box[:, :2]).prod(-1) - inside
    offset = functional.smooth_l1_loss(torch.cat([low, high], -1) / 8, box / 8)
    return 2 * there + classes + (1 - inside / union).mean() + offset


def without_cells(images: Tensor, color: Tensor, generator: torch.Generator, side: int = 4) -> Tensor:
    """Fill one random cell of side x side with a color, in the first half of a batch."""
    half = len(images) // 2
    row, column = torch.randint(side, (2, half, 1, 1), generator=generator)
    line = torch.arange(SIZE) // (SIZE // side)
    gone = (line[:, None] == row) & (line == column)  # (half, H, W)
    return torch.cat([torch.where(gone[:, None], color, images[:half]), images[half:]])


LOSSES: dict[str, Loss] = {
    "cnn": present,
    "vit": present,
    "segmenter": segmentation,
    "detector": detection,
    "cnn-idsds": present,
}
STEPS = {"cnn": 1000, "vit": 400, "segmenter": 300, "detector": 300, "cnn-idsds": 150}
RATES = {"cnn": 3e-3, "cnn-idsds": 1e-3}
"""Highest learning rates; the others have 2e-3."""


def train(name: str, *, steps: int | None = None, report: Callable[[str], None] = print) -> nn.Module:
    """Train a model anew, always the same way, and write its weights in half precision."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = NETS[name]().train()
    if name in FURTHER:
        model.load_state_dict(load("cnn").state_dict())
    elif name != "cnn":
        # they begin with the same convolutions
        model.get_submodule("body").load_state_dict(load("cnn").get_submodule("body").state_dict())
    total = steps or STEPS[name]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATES.get(name, 2e-3), total)
    color = mean_color() if name in FURTHER else None
    for step in range(total):
        world = scenes(32, generator=generator, digits=1 + step % 4, split="train")
        images = world.images if color is None else without_cells(world.images, color, generator)
        loss = LOSSES[name](model(images), world)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        if name != "cnn":
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            report(f"{name} {step + 1}/{total}: loss {loss.item():.3f}")
    model.eval()
    held_out = scenes(200, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        report(f"{name}: {quality(model(held_out.images), held_out)}")
        if color is not None:
            twice = held_out.images.repeat(2, 1, 1, 1)
            less = without_cells(twice, color, generator)[: len(twice) // 2]
            report(f"{name}, without one cell: {quality(model(less), held_out)}")
    half = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    torch.save(half, DATA / f"{name}.pt")
    return model


def mean_color() -> Tensor:
    """Return the color that the track `single` of the suite fills cells with, (3, 1, 1)."""
    return scenes(200, generator=torch.Generator().manual_seed(2)).images.mean((0, 2, 3)).view(3, 1, 1)


def quality(outputs: Any, world: Scenes) -> str:
    """Say in words how good outputs are."""
    if isinstance(outputs, dict):
        truth = ((world.labels + 1)[..., None, None] * world.masks).amax(1)
        predicted = outputs["out"].argmax(1)
        each = [
            (((predicted == k) & (truth == k)).sum() / ((predicted == k) | (truth == k)).sum()).item()
            for k in range(1, 11)
        ]
        return f"mean IoU of the digits {sum(each) / 10:.3f}"
    if outputs.ndim == 2:
        best = outputs.topk(world.labels.shape[1]).indices.sort(1).values
        right = (best == world.labels.sort(1).values).all(1).float().mean().item()
        return f"share of the scenes with both digits right {right:.3f}"
    return f"share of the digits that their class's best candidate lies on {found_right(outputs, world):.3f}"


def found_right(outputs: Tensor, world: Scenes) -> float:
    """Share of digits whose class's best candidate has its center in the digit's box."""
    score = outputs[..., 4:5].sigmoid() * outputs[..., 5:].softmax(-1)  # (B, N, 10)
    best = score.argmax(1).gather(1, world.labels)  # (B, D)
    center = outputs[..., :2].gather(1, best[..., None].expand(-1, -1, 2))
    inside = (center > world.boxes[..., :2]) & (center < world.boxes[..., 2:])
    return inside.all(-1).float().mean().item()


def pack_digits(each: int = 150) -> None:
    """Write `each` glyphs of every digit, two pixels a byte, from scikit-learn's copy of the data set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).clamp(max=15).to(torch.uint8)
    labels = torch.from_numpy(digits.target)
    pairs = torch.stack([pixels[labels == k][:each] for k in range(10)]).reshape(10, each, 32, 2)
    torch.save(pairs[..., 0] * 16 + pairs[..., 1], DATA / "digits.pt")
