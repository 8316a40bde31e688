"""Draw docs/_static/words.webp, the words of a tiny LLaVA over their maps, and print the table of docs/multimodal.md.

Some minutes on one thread, no network: `OMP_NUM_THREADS=1 python docs/_ext/words_strip.py`.

The model is trained here, on scenes of two digits side by side, to name them from left to right. Its patches are the
convolutions of the tiny world's classifier, whose weights are at hand and stay as they are, and a layer on them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaConfig, LlavaForConditionalGeneration

from camfn import tiny, words

OUT = Path(__file__).parents[1] / "_static" / "words.webp"
WORDS = [
    "", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "a", "an", "and", "which",
    "digits", "?", "<image>",
]  # fmt: skip
IMAGE = WORDS.index("<image>")
PROMPT = [0, *[IMAGE] * 64, *map(WORDS.index, ("which", "digits", "?"))]
PATCHES = "model.vision_tower.embeddings.patch_embedding"
METHODS: dict[str, tuple[str, str | None]] = {
    "tam": ("tam", None),
    "grad_cam": ("grad_cam", None),
    "grad_cam, patches": ("grad_cam", PATCHES),
    "raw_attention": ("raw_attention", None),
    "le_grad": ("le_grad", None),
    "drops": ("drops", None),
}
DRAWN = ("tam", "grad_cam", "drops")
CELL = 132
STEPS, BATCH, POOL, HELD_OUT = 400, 64, 8000, 100


class Patches(nn.Conv2d):
    """The tiny classifier's convolutions, fixed, and a layer of one output a patch of 8 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__(64, width, 2, 2, bias=False)
        self.body = tiny.load("cnn").get_submodule("body").requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 64, 64), or what the convolutions made of it in the shape (B, 4, 64, 64), to (B, width, 8, 8)."""
        return super().forward(self.body(pixels) if pixels.shape[1] == 3 else pixels.reshape(-1, 64, 16, 16))


class World(NamedTuple):
    """Scenes of two digits side by side, with masks and answers in the order from left to right."""

    images: Tensor
    masks: Tensor
    answers: Tensor


def world(count: int, split: Any, seed: int) -> World:
    """Draw scenes; keep those whose digits' centers are 10 pixels apart in width, at least."""
    drawn = tiny.scenes(count * 2, generator=torch.Generator().manual_seed(seed), split=split)
    center = (drawn.boxes[..., 0] + drawn.boxes[..., 2]) / 2
    kept = ((center[:, 0] - center[:, 1]).abs() >= 10).nonzero()[:count, 0]
    order = center[kept].argsort(1)
    labels = drawn.labels[kept].gather(1, order)
    masks = drawn.masks[kept].gather(1, order[..., None, None].expand(-1, -1, 64, 64))
    article = torch.where(labels == 8, WORDS.index("an"), WORDS.index("a"))
    joint = torch.full_like(labels[:, 0], WORDS.index("and"))
    parts = [article[:, 0], labels[:, 0] + 1, joint, article[:, 1], labels[:, 1] + 1]
    return World(drawn.images[kept], masks, torch.stack(parts, 1))


def untrained() -> nn.Module:
    """Build a LLaVA of two blocks in the tower and two in the language model, 64 channels wide."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    tower = {**sizes, "model_type": "clip_vision_model", "image_size": 64, "patch_size": 8}
    # an answer has five words, and none ends it
    text = {**sizes, "model_type": "llama", "vocab_size": len(WORDS), "bos_token_id": None, "eos_token_id": None}
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_id=IMAGE, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.embeddings.patch_embedding = Patches(64)
    return cast(nn.Module, model)


def answers_to(model: Any, pixels: Tensor, answers: Tensor) -> Tensor:
    """Return the logits at each word of the answers, (B, 5, V)."""
    ids = torch.cat([torch.tensor(PROMPT).expand(len(answers), -1), answers[:, :-1]], 1)
    return cast(Tensor, model(input_ids=ids, pixel_values=pixels, logits_to_keep=answers.shape[1]).logits)


def trained(steps: int = STEPS) -> nn.Module:
    """Train it by cross-entropy on the answers, teacher-forced, the same way each time."""
    torch.manual_seed(0)
    model: Any = untrained()
    body = model.model.vision_tower.embeddings.patch_embedding.body.eval()
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    pool = world(POOL, "train", 1)
    with torch.no_grad():
        seen = torch.cat([body(part).reshape(-1, 4, 64, 64).half() for part in pool.images.split(100)])
    start = time.perf_counter()
    for step in range(steps):
        chosen = torch.randint(len(seen), (BATCH,))
        logits = answers_to(model, seen[chosen].float(), pool.answers[chosen])
        loss = functional.cross_entropy(logits.flatten(0, 1), pool.answers[chosen].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            right = (logits.argmax(-1) == pool.answers[chosen])[:, [1, 4]].float().mean(0)
            print(step + 1, f"{loss.item():.3f}", right.tolist(), f"{time.perf_counter() - start:.0f} s", flush=True)
    return cast(nn.Module, model.eval())


def said_of(model: nn.Module, scene: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return a scene's prompt, and the five words that the model says of it."""
    inputs = {"input_ids": torch.tensor([PROMPT]), "pixel_values": scene[None]}
    return inputs, words.explain(model, inputs, 5).ids


def explained_by(name: str, model: nn.Module, inputs: dict[str, Tensor], said: Tensor) -> words.Explained:
    """Explain the words by one of the methods."""
    method, layer = METHODS[name]
    if method == "drops":
        return words.drops(model, inputs, said)
    return words.explain(model, inputs, said, method=method, layer=layer)


def measured(model: nn.Module, held: World) -> dict[str, list[Tensor]]:
    """Return for each method, of every digit's word that is right: whether its map's highest place shows the digit,
    whether it shows the other digit, and the digit's share of what the map has on both; by chance too.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in (*METHODS, "chance")}
    for scene, masks, answer in zip(*held, strict=True):
        inputs, said = said_of(model, scene)
        places = functional.max_pool2d(masks[None].float(), 8)[0].flatten(1)  # (2, 64): which places show a digit
        for name in METHODS:
            maps = explained_by(name, model, inputs, said).maps[0].flatten(1)
            for digit, at in enumerate((1, 4)):
                if said[at] != answer[at]:
                    continue
                own, other = places[digit], places[1 - digit]
                cam, peak = maps[at].clamp(min=0), maps[at].argmax()
                share = (cam * own).sum() / ((cam * own).sum() + (cam * other).sum())
                some = cam.max() > 0  # an empty map has no peak, and no share
                found[name].append(torch.stack([own[peak] * some, other[peak] * some, share]))
                if name == DRAWN[0]:
                    found["chance"].append(torch.stack([own.mean(), other.mean(), own.sum() / (own + other).sum()]))
    return found


def drawn(model: nn.Module, scene: Tensor, method: str) -> Tensor:
    """Draw the words of a scene in a row, gray where the model would say them of a blank picture too."""
    inputs, said = said_of(model, scene)
    explained = explained_by(method, model, inputs, said)
    carried = words.carried(model, inputs, said)
    large = functional.interpolate(scene[None], (CELL, CELL), mode="bicubic")[0].clamp(0, 1)
    return words.draw(explained, large, [WORDS[one] for one in said.tolist()], carried=carried, cell=CELL)


def main() -> None:
    """Train, measure, draw."""
    torch.set_num_threads(1)
    model, held = trained(), world(HELD_OUT, "test", 2)
    right, read = [], []
    for scene, answer in zip(held.images, held.answers, strict=True):
        inputs, said = said_of(model, scene)
        right.append(said == answer)
        read.append(words.carried(model, inputs, said).read)
    for name, each in (("right", right), ("read from the picture", read)):
        print(name, [f"{share:.2f}" for share in torch.stack(each).float().mean(0).tolist()])
    print("whole answers right", f"{torch.stack(right).all(1).float().mean():.2f}")
    for name, rows in measured(model, held).items():
        print(name, len(rows), [f"{share:.2f}" for share in torch.stack(rows).nanmean(0).tolist()])
    strips = [drawn(model, scene, name) for scene in held.images[:2] for name in DRAWN]
    picture = (torch.cat(strips, 1).permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(picture).save(OUT, quality=88, method=6)


if __name__ == "__main__":
    main()
