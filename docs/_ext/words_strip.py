"""Draw docs/_static/words*.webp, the words of tiny models of three families over their maps, and print their tables.

Some minutes a family on one thread, no network: `make words-strip`, or `python docs/_ext/words_strip.py qwen2_5_vl`.

Each model is trained here, on scenes of two digits side by side, to name them from left to right. Its patches are the
convolutions of the tiny world's classifier, whose weights are at hand and stay as they are, and a layer on them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from camfn import tiny, words

OUT = Path(__file__).parents[1] / "_static"
WORDS = [
    "", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "a", "an", "and", "which",
    "digits", "?", "<image>", "<video>",
]  # fmt: skip
IMAGE = WORDS.index("<image>")
QUESTION = [WORDS.index(one) for one in ("which", "digits", "?")]
METHODS: dict[str, tuple[str, bool]] = {
    # the method, and whether at the layer of the patches
    "tam": ("tam", False),
    "grad_cam": ("grad_cam", False),
    "grad_cam, patches": ("grad_cam", True),
    "raw_attention": ("raw_attention", False),
    "le_grad": ("le_grad", False),
    "drops": ("drops", False),
}
DRAWN = ("tam", "grad_cam", "drops")
CELL = 132
STEPS, BATCH, POOL, HELD_OUT = 400, 64, 8000, 100


def body() -> nn.Module:
    """The convolutions of the tiny classifier, fixed: (B, 3, 64, 64) to (B, 64, 16, 16)."""
    return tiny.load("cnn").get_submodule("body").requires_grad_(False)


class Patches(nn.Conv2d):
    """The fixed convolutions, and a layer of one output a patch of 8 pixels, or of 4 with a side of 1."""

    def __init__(self, width: int, side: int = 2) -> None:
        super().__init__(64, width, side, side, bias=False)
        self.body = body()

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 64, 64), or what the convolutions made of it in the shape (B, 4, 64, 64), to (B, width, 8, 8) or
        (B, width, 16, 16).
        """
        return super().forward(self.body(pixels) if pixels.shape[1] == 3 else pixels.reshape(-1, 64, 16, 16))


class PackedPatches(nn.Linear):
    """The same for the packed patches of Qwen-VL, of 4 pixels, in blocks of 2 x 2."""

    def __init__(self, width: int) -> None:
        super().__init__(64, width, bias=False)
        self.body = body()

    def forward(self, patches: Tensor) -> Tensor:
        """(B 256, 3 2 4 4), or what the convolutions made of them, (B 256, 64), to (B 256, width)."""
        if patches.shape[1] != 64:
            patches = in_blocks(self.body(unpacked(patches)))
        return super().forward(patches)


def in_blocks(x: Tensor) -> Tensor:
    """Lay (B, C, 16, 16) out as Qwen-VL does: rows of blocks of 2 x 2, (B 256, C)."""
    blocks = x.reshape(len(x), x.shape[1], 8, 2, 8, 2)
    return blocks.permute(0, 2, 4, 3, 5, 1).reshape(-1, x.shape[1])


def packed(images: Tensor) -> Tensor:
    """Lay images (B, 3, 64, 64) out as patches, (B 256, 3 2 4 4): each twice, for the two frames of a step in time."""
    folded = functional.pixel_unshuffle(images, 4)  # (B, 3 4 4, 16, 16)
    return in_blocks(folded).reshape(-1, 3, 1, 16).expand(-1, -1, 2, -1).reshape(-1, 96)


def unpacked(patches: Tensor) -> Tensor:
    """Undo `packed`."""
    one = patches.reshape(-1, 8, 8, 2, 2, 3, 2, 16)[..., 0, :]
    return functional.pixel_shuffle(one.permute(0, 5, 6, 1, 3, 2, 4).reshape(-1, 48, 16, 16), 4)


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


class Family(NamedTuple):
    """How a family is built, and what it reads.

    Attributes:
        build: an untrained model of two blocks in the tower and two in the language model, 64 channels wide.
        prompt: the ids in front of the answer.
        pixels: what the model reads of images (B, 3, 64, 64).
        features: what the layer of the patches reads of the convolutions' (B, 64, 16, 16).
        patches: name of the layer of the patches.
    """

    build: Callable[[], nn.Module]
    prompt: list[int]
    pixels: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], Tensor]
    patches: str

    def inputs(self, pixels: Tensor, count: int = 1) -> dict[str, Tensor]:
        """Return what the processor of the family would return of `count` images with this prompt."""
        ids = torch.tensor(self.prompt).expand(count, -1)
        made = {"input_ids": ids, "pixel_values": pixels}
        if self.build is qwen2_5_vl:
            made["image_grid_thw"] = torch.tensor([[1, 16, 16]] * count)
            made["mm_token_type_ids"] = (ids == IMAGE).long()
        return made


SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
TEXT = {**SIZES, "vocab_size": len(WORDS), "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
"""An answer has five words, and none ends it."""


def llava() -> nn.Module:
    """A tower of CLIP with a class token, causal text."""
    tower = {**SIZES, "model_type": "clip_vision_model", "image_size": 64, "patch_size": 8}
    text = {**TEXT, "model_type": "llama", "vocab_size": IMAGE + 1}
    config = LlavaConfig(vision_config=tower, text_config=text, image_token_id=IMAGE, vision_feature_layer=-1)
    return cast(nn.Module, LlavaForConditionalGeneration(config))


def qwen2_5_vl() -> nn.Module:
    """A tower of packed patches in windows, merged by 2 x 2; causal text with positions in three dimensions."""
    tower = {
        "depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 128, "patch_size": 4, "window_size": 32,
        "fullatt_block_indexes": [1], "out_hidden_size": 64,
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {**TEXT, "num_key_value_heads": 4, "rope_parameters": rope}
    ids = {"image_token_id": IMAGE, "video_token_id": IMAGE + 1, "vision_start_token_id": 0, "vision_end_token_id": 0}
    config = Qwen2_5_VLConfig(vision_config=tower, text_config=text, **ids)
    return cast(nn.Module, Qwen2_5_VLForConditionalGeneration(config))


def smolvlm() -> nn.Module:
    """A tower without a class token, whose patches of 4 pixels are joined by 2 x 2; causal text."""
    tower = {**SIZES, "model_type": "smolvlm_vision", "image_size": 64, "patch_size": 4}
    text = {**TEXT, "model_type": "llama"}
    config = SmolVLMConfig(vision_config=tower, text_config=text, image_token_id=IMAGE, scale_factor=2)
    return cast(nn.Module, SmolVLMForConditionalGeneration(config))


def untouched(x: Tensor) -> Tensor:
    """Return what came."""
    return x


def as_wide(features: Tensor) -> Tensor:
    """Give (B, 64, 16, 16) the height and width of an image, which a tower checks."""
    return features.reshape(-1, 4, 64, 64)


def one_tile(x: Tensor) -> Tensor:
    """Give each image a dimension of its tiles, of which there is one."""
    return (x if x.shape[1] == 3 else as_wide(x))[:, None]


CONV = "vision_tower.embeddings.patch_embedding"
PLACES = [IMAGE] * 64
FAMILIES = {
    "llava": Family(llava, [0, *PLACES, *QUESTION], untouched, as_wide, CONV),
    "qwen2_5_vl": Family(qwen2_5_vl, [0, *PLACES, 0, *QUESTION], packed, in_blocks, "visual.patch_embed"),
    "smolvlm": Family(
        smolvlm, [0, *PLACES, 0, *QUESTION], one_tile, one_tile, "vision_model.embeddings.patch_embedding"
    ),
}


def untrained(family: Family) -> nn.Module:
    """Build a model, with the fixed convolutions in the place of its patches."""
    model = family.build()
    parent, _, name = f"model.{family.patches}".rpartition(".")
    patches = PackedPatches(64) if family.build is qwen2_5_vl else Patches(64, 1 if family.build is smolvlm else 2)
    setattr(model.get_submodule(parent), name, patches)
    return model


def answers_to(model: Any, family: Family, pixels: Tensor, answers: Tensor) -> Tensor:
    """Return the logits at each word of the answers, (B, 5, V)."""
    inputs, later = family.inputs(pixels, len(answers)), answers[:, :-1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], later], 1)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(later)], 1)
    return cast(Tensor, model(**inputs, logits_to_keep=answers.shape[1], use_cache=False).logits)


def trained(family: Family) -> nn.Module:
    """Train it by cross-entropy on the answers, teacher-forced, the same way each time."""
    torch.manual_seed(0)
    model: Any = untrained(family)
    fixed = model.get_submodule(f"model.{family.patches}").body.eval()
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS, pct_start=0.1)
    pool = world(POOL, "train", 1)
    with torch.no_grad():
        seen = torch.cat([fixed(part).half() for part in pool.images.split(100)])
    start = time.perf_counter()
    for step in range(STEPS):
        chosen = torch.randint(len(seen), (BATCH,))
        logits = answers_to(model, family, family.features(seen[chosen].float()), pool.answers[chosen])
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


def said_of(model: nn.Module, family: Family, scene: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return a scene's prompt, and the five words that the model says of it."""
    inputs = family.inputs(family.pixels(scene[None]))
    return inputs, words.explain(model, inputs, 5).ids


def explained_by(
    name: str, model: nn.Module, family: Family, inputs: dict[str, Tensor], said: Tensor
) -> words.Explained:
    """Explain the words by one of the methods."""
    method, at_patches = METHODS[name]
    if method == "drops":
        return words.drops(model, inputs, said)
    return words.explain(model, inputs, said, method=method, layer=f"model.{family.patches}" if at_patches else None)


def measured(model: nn.Module, family: Family, held: World) -> dict[str, list[Tensor]]:
    """Return for each method, of every digit's word that is right: whether its map's highest place shows the digit,
    whether it shows the other digit, and the digit's share of what the map has on both; by chance too.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in (*METHODS, "chance")}
    for scene, masks, answer in zip(*held, strict=True):
        inputs, said = said_of(model, family, scene)
        places = functional.max_pool2d(masks[None].float(), 8)[0].flatten(1)  # (2, 64): which places show a digit
        for name in METHODS:
            # the patches of Qwen-VL are finer than its places
            maps = functional.adaptive_avg_pool2d(explained_by(name, model, family, inputs, said).maps[0], 8).flatten(1)
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


def drawn(model: nn.Module, family: Family, scene: Tensor, method: str) -> Tensor:
    """Draw the words of a scene in a row, gray where the model would say them of a blank picture too."""
    inputs, said = said_of(model, family, scene)
    explained = explained_by(method, model, family, inputs, said)
    carried = words.carried(model, inputs, said)
    large = functional.interpolate(scene[None], (CELL, CELL), mode="bicubic")[0].clamp(0, 1)
    return words.draw(explained, large, [WORDS[one] for one in said.tolist()], carried=carried, cell=CELL)


def main() -> None:
    """Train, measure, draw each family that is named, or all."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or FAMILIES:
        print(name, flush=True)
        show(FAMILIES[name], OUT / ("words.webp" if name == "llava" else f"words-{name}.webp"))


def show(family: Family, path: Path) -> None:
    """Train, measure, draw."""
    model, held = trained(family), world(HELD_OUT, "test", 2)
    right, read = [], []
    for scene, answer in zip(held.images, held.answers, strict=True):
        inputs, said = said_of(model, family, scene)
        right.append(said == answer)
        read.append(words.carried(model, inputs, said).read)
    for name, each in (("right", right), ("read from the picture", read)):
        print(name, [f"{share:.2f}" for share in torch.stack(each).float().mean(0).tolist()])
    print("whole answers right", f"{torch.stack(right).all(1).float().mean():.2f}")
    for name, rows in measured(model, family, held).items():
        print(name, len(rows), [f"{share:.2f}" for share in torch.stack(rows).nanmean(0).tolist()])
    strips = [drawn(model, family, scene, name) for scene in held.images[:2] for name in DRAWN]
    picture = (torch.cat(strips, 1).permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(picture).save(path, quality=88, method=6)


if __name__ == "__main__":
    main()
