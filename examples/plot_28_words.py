"""
See which part of a picture a multimodal model read for each word
=================================================================

``camfn.words`` makes a map of the picture for every word of an answer, from one forward on prompt and answer together.
Weights of a real model cannot be shipped with this page. Some seconds here train a LLaVA of one block to name two
digits from left to right; its tower looks through the fixed convolutions of the package's classifier.
"""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from torchvision.transforms.functional import to_pil_image
from transformers import LlavaConfig, LlavaForConditionalGeneration

from camfn import image, metrics, tiny, words

digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
names = ["a", "an", "and", *digits, "?", "<image>"]


def scenes(count, split, seed):
    """Pictures of two digits, what to say from left to right, as "a nine and a seven", and the masks of the digits."""
    world = tiny.scenes(count, generator=torch.Generator().manual_seed(seed), split=split)
    apart = (world.boxes[:, 0, 0] - world.boxes[:, 1, 0]).abs() > 10
    order = world.boxes[..., 0].argsort(1)
    left, right = world.labels.gather(1, order)[apart].T
    said = [(left == 8).long(), left + 3, torch.full_like(left, 2), (right == 8).long(), right + 3]
    return world.images[apart], torch.stack(said, 1), world.masks[torch.arange(count)[:, None], order][apart]


class Patches(nn.Conv2d):
    """The convolutions of the tiny classifier, fixed, and a layer on them: (B, 3, 64, 64) to (B, 48, 8, 8)."""

    def forward(self, pixels):
        """Read what the convolutions make of the pixels."""
        return super().forward(body(pixels))


torch.manual_seed(0)
body = tiny.load("cnn").get_submodule("body").requires_grad_(False)
sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 96}
ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
tower = {**sizes, "model_type": "clip_vision_model", "image_size": 64, "patch_size": 8}
text = {**sizes, **ends, "model_type": "llama", "vocab_size": len(names)}
model = LlavaForConditionalGeneration(  # yours: .from_pretrained("llava-hf/llava-1.5-7b-hf").eval()
    LlavaConfig(vision_config=tower, text_config=text, image_token_id=len(names) - 1, vision_feature_layer=-1)
)
model.model.vision_tower.embeddings.patch_embedding = Patches(64, 48, 2, 2, bias=False)

prompt = torch.tensor([names.index("<image>")] * 64 + [names.index("?")])
images, answers, _ = scenes(2500, "train", 1)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
for chosen in torch.randint(len(images), (200, 32)):
    ids = torch.cat([prompt.expand(len(chosen), -1), answers[chosen, :-1]], 1)
    logits = model(input_ids=ids, pixel_values=images[chosen], logits_to_keep=5).logits
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), answers[chosen].flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
model = model.eval()
# sphinx_gallery_thumbnail_cell = 0, 5

# %%
# The model is at hand. Now the ten lines: what it says of a picture that it has not seen, and a row of maps a method.

tokenizer = Tokenizer(WordLevel({name: index for index, name in enumerate(names)}))  # yours: processor.tokenizer
images, answers, _ = scenes(3, "test", 2)
inputs = {"input_ids": prompt[None], "pixel_values": images[:1]}  # yours: processor(images=..., text=...)
found = words.explain(model, inputs, 5, method="tam")  # the first five words that it says
said, groups = words.grouped(tokenizer, found.ids)  # the tokens of each word, for groups=; here one each
carried = words.carried(model, inputs, found.ids)  # against a blank picture
print(", ".join(f"{word} {rise:+.2f}" for word, rise in zip(said, carried.rises)))  # what the picture adds to each

attention = words.explain(model, inputs, found.ids, method="raw_attention")  # where the last block looks
drops = words.drops(model, inputs, found.ids)  # what the word loses without a place
large = nn.functional.interpolate(images[:1], (150, 150), mode="bicubic")[0].clamp(0, 1)
rows = [words.draw(each, large, said, carried=carried, cell=150) for each in (found, attention, drops)]
to_pil_image(image.montage(rows, ["tam", "raw_attention", "words.drops"], columns=1, caption_size=18))

# %%
# Words in gray, in brackets, the model says of a blank picture too: after "an" only "eight" can follow, so the eight is
# read for "an". What a model of this size can show is whether a method finds what was read. Where it was measured, 91
# of 100 answers to new scenes are right, and of their digits' words the peak of ``words.drops`` is on the word's digit
# for 75 %, of ``raw_attention`` for 73 %, of ``grad_cam`` for 14 % and of ``tam`` for 2 %, where chance has 14 %. It
# says nothing of which method is best for a large model.

# %%
# How good are the maps? Here the mask of each digit is known, so that the measures of TAM's paper can be asked: the map
# of a noun should cover its object, that of "and", which has none, should be dark.

images, answers, masks = scenes(160, "test", 3)
nouns, ands = [], []
for picture, answer, of_digits in zip(images[:12], answers[:12], masks[:12]):
    found = words.drops(model, {"input_ids": prompt[None], "pixel_values": picture[None]}, answer)
    heat = image.normalize(found.maps[0])  # (5, 8, 8), a map a word
    nouns += [words.object_iou(heat[[at]], mask) for at, mask in zip((1, 4), of_digits)]
    ands.append(heat[2])
cover = torch.stack([noun.iou for noun in nouns])
dark = words.function_iou(torch.stack(ands), torch.stack([noun.threshold for noun in nouns]).mean())
print(f"Obj-IoU {cover.mean():.2f}, Func-IoU {dark.mean():.2f}, F1-IoU {words.f1_iou(cover, dark):.2f}")

# %%
# EAGLE's measure takes wrong answers: how much of the picture, in the order of the map, is to be hidden until the model
# says another word? Noise on the pictures makes the model err.

images, answers = images[:50], answers[:50]
images = images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
cells, shares = metrics.grid_cells((8, 8), 4), torch.arange(16) / 16  # 16 squares of 2 x 2 places
with torch.no_grad():
    asked = {"input_ids": torch.cat([prompt.expand(len(images), -1), answers[:, :4]], 1), "pixel_values": images}
    told = model(**asked).logits[:, -1].argmax(-1)  # the right digit, behind the words before it
wrong, turned = (told != answers[:, 4]).nonzero()[:, 0].tolist(), []
for at in wrong:
    asked = {"input_ids": prompt[None], "pixel_values": images[at : at + 1]}
    said = torch.cat([answers[at, :4], told[at : at + 1]])
    cam = words.drops(model, asked, said).maps[0][4]  # of the wrong word
    order = (cells * cam).sum((1, 2)).argsort(descending=True)
    hidden = [words.hide(model, asked, [cells[order[:count]].any(0)]) for count in range(16)]
    with torch.no_grad():  # `forced` puts the words before it behind the prompt
        now = [model(**words.forced(model, each, said[:4])).logits[0, -1].argmax() for each in hidden]
    turned.append(torch.stack(now) != told[at])
average, rate = words.corrections(torch.stack(turned), shares, level=0.25)
print(f"{len(wrong)} of {len(images)} right digits are wrong; {rate:.0%} of these turn with a quarter hidden,")
print(f"and {average:.0%} of the picture must go on average, where a word that never turns counts as all of it")

# %%
# **If it looks wrong:** A word of several tokens needs ``groups=words.grouped(tokenizer, found.ids)``. A map of a gray
# word means nothing. Where two methods disagree, believe ``words.drops``, which runs the model without each place.
# Needs ``pip install 'camfn[demo,hf]'``.

# %%
# **Next:** :doc:`/multimodal` has the methods, the models and what a map cannot say;
# :ref:`sphx_glr_howto_plot_12_numbers_labels_captions.py`. On the command line: ``camfn words photo.jpg --model
# hf:FOLDER --ask "What is in the image?"``.
