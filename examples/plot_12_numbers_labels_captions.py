"""
Explain a regression, several labels, a caption
===============================================

A target is any function of the outputs that gives one number a sample. For a regression: what raises or lowers the
number. For several labels: their sum. For a caption: the log-probability of one of its words, given the words before
it.
"""

from types import SimpleNamespace

import torch
from torch import nn
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, targets, tiny
from camfn.methods import hires_cam


class Sum(nn.Module):
    """A regression: the expected digit, as one number."""

    def __init__(self):
        super().__init__()
        self.net = tiny.load("cnn")

    def forward(self, x):
        """(B, 1)."""
        return self.net(x).softmax(-1) @ torch.arange(10.0)[:, None]


class Captioner(nn.Module):
    """A captioner of two words: each word is a digit, the second another one than the first."""

    def __init__(self):
        super().__init__()
        self.net = tiny.load("cnn")

    def forward(self, pixel_values, labels):
        """Logits of each word, given the words before it, (B, 2, 10)."""
        first = self.net(pixel_values)
        second = first.scatter(1, labels[:, :1], -20.0)
        return SimpleNamespace(logits=torch.stack([first, second], 1))


world = tiny.scenes(1, generator=torch.Generator().manual_seed(0))
words = world.labels[:1]
inputs = {"pixel_values": world.images, "labels": words}
caption = explainer(hires_cam, Captioner().eval(), "net.body")
number = explainer(hires_cam, Sum().eval(), "net.body")
maps = {
    "raises the number": number(world.images, targets.regression(0)),
    "both labels": explainer(hires_cam, tiny.load("cnn"), "body")(world.images, targets.several(words[0])),
    f"the word {int(words[0, 0])}": caption(inputs, targets.token_log_probability(words, position=0)),
    f"then {int(words[0, 1])}": caption(inputs, targets.token_log_probability(words, position=1)),
}
pictures = [image.overlay(world.images, image.normalize(cam))[0] for cam in maps.values()]
to_pil_image(image.montage(pictures, list(maps), columns=4, cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 1, 4

# %%
# **If it looks wrong:** The map of a regression has two signs that both matter: draw it with ``image.normalize(cam,
# signed=True)`` and ``image.colorize(..., "seismic")``. A word of a caption may rest on the words before it rather
# than on the image.

# %%
# **Next:** :doc:`/tasks` for BLIP and encoder-decoders of Hugging Face; all targets in
# :doc:`/reference/camfn.targets`.
