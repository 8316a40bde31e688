"""
Ask with a text: CLIP and SigLIP
================================

The score is the cosine of image and text. Give the network both, and explain a layer of its vision tower. Weights
cannot be shipped with this page: the image tower below is a small transformer for digits, its text tower a table of
ten sentences, and the calls are those for ``CLIPModel`` of Hugging Face.
"""

from types import SimpleNamespace

import torch
from torch import nn
from torchvision.transforms.functional import to_pil_image

from camfn import explainer, image, layers, tiny
from camfn.methods import hires_cam


class TinyClip(nn.Module):
    """Outputs as those of a CLIP: the products of each image with each text."""

    def __init__(self):
        super().__init__()
        self.vision_model = tiny.load("vit")
        self.text_model = nn.Embedding.from_pretrained(torch.eye(10))  # "a photo of a zero", "a photo of a one", ...

    def forward(self, pixel_values, input_ids):
        """Join the towers."""
        text = self.text_model(input_ids[:, 0])
        return SimpleNamespace(logits_per_image=self.vision_model(pixel_values) @ text.T)


clip = TinyClip().eval()  # CLIPModel.from_pretrained("openai/clip-vit-base-patch16").eval()
world = tiny.scenes(1, generator=torch.Generator().manual_seed(0))
digits = world.labels[0].tolist()
inputs = {"pixel_values": world.images, "input_ids": torch.tensor(digits)[:, None]}  # processor(text=[...]).input_ids
layer = layers.suggest(clip, inputs, lambda out: out.logits_per_image[:, 0])[0].name
explain = explainer(hires_cam, clip, layer)

maps = {
    f"a photo of a {digits[0]}": explain(inputs, lambda out: out.logits_per_image[:, 0]),
    f"a photo of a {digits[1]}": explain(inputs, lambda out: out.logits_per_image[:, 1]),
    f"rather a {digits[0]} than a {digits[1]}": explain(
        inputs, lambda out: out.logits_per_image[:, 0] - out.logits_per_image[:, 1]
    ),
}
pictures = [world.images[0], *(image.overlay(world.images, image.normalize(cam))[0] for cam in maps.values())]
to_pil_image(image.montage(pictures, ["the image", *maps], columns=4, cell=(240, 240)))
# sphinx_gallery_thumbnail_cell = 1, 4

# %%
# **If it looks wrong:** Texts of a real CLIP are close to each other, so that one text alone lights up what all
# share: take the difference of two texts. Grad-ECLIP and LeGrad were made for such networks.

# %%
# **Next:** :doc:`/tasks` runs the same on ``CLIPModel``; :ref:`sphx_glr_howto_plot_07_transformer.py`. On the command
# line: ``--target "text:a photo of a dog"``.
