"""`hf:` detectors that read words, from folders with random weights: as transformers' own processors ask and show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from camfn import capture_levels, zoo
from camfn.cli._files.records import read_lines
from camfn.methods import odam
from camfn.targets import box_score, detections, head_for
from camfn.zoo import LoadError
from tests.cli.jobs.test_task import run
from tests.nets.detrs import detr

NAMES = ["a cat", "dog", "a red car"]


def _bert(path: Path) -> Any:
    """A tokenizer in which the separators have the numbers that Grounding DINO reads."""
    words = [f"[unused{i}]" for i in range(1100)]
    words[0], words[100], words[101], words[102], words[1012], words[1029] = (
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        ".",
        "?",
    )
    for place, word in enumerate(("a", "cat", "dog", "red", "car")):
        words[5 + place] = word
    (path / "vocab.txt").write_text("\n".join(words))
    return transformers.BertTokenizer.from_pretrained(path)


def _clip() -> Any:
    words = ["pad", "bos", "eos", "a", "cat", "dog", "red", "car"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="pad"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="pad", eos_token="eos")


def _owl2() -> Any:
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    text = {**common, "vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.Owlv2Config(
        text_config=text, vision_config={**common, "image_size": 64, "patch_size": 16}, projection_dim=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: Any = transformers.Owlv2ForObjectDetection(config)
    net.class_head.logit_scale.weight.data.zero_()
    return net


@pytest.fixture(params=["GroundingDino", "OwlViT", "Owlv2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    path.mkdir()
    (_owl2() if request.param == "Owlv2" else detr(request.param).model).save_pretrained(path)
    sizes: dict[str, Any] = {"size": {"height": 64, "width": 64}}
    if request.param == "GroundingDino":
        sizes = {"size": {"shortest_edge": 64, "longest_edge": 96}}
        _bert(path).save_pretrained(path)
    else:
        _clip().save_pretrained(path)
    getattr(transformers, f"{request.param}ImageProcessor")(**sizes).save_pretrained(path)
    return path


@pytest.fixture
def street(tmp_path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)).save(
        tmp_path / "street.png"
    )
    return tmp_path / "street.png"


def of_transformers(folder: Path, street: Path) -> tuple[Any, Any, Any]:
    """Its own processor's inputs, and outputs, for the names; and the processor."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    images = transformers.AutoImageProcessor.from_pretrained(folder)
    net = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    photo = Image.open(street).convert("RGB")
    if folder.name == "GroundingDino":
        processor: Any = transformers.GroundingDinoProcessor(images, tokenizer)
        inputs = processor(images=photo, text=[NAMES], return_tensors="pt")
    else:
        processor = getattr(transformers, f"{folder.name}Processor")(images, tokenizer)
        tokens = tokenizer(NAMES, padding="max_length", max_length=16, return_tensors="pt")
        inputs = {**images(photo, return_tensors="pt"), **{k: tokens[k] for k in ("input_ids", "attention_mask")}}
    with torch.no_grad():
        return inputs, net(**inputs), processor


def test_names_are_asked_as_transformers_asks(folder: Path, street: Path) -> None:
    inputs, want, _ = of_transformers(folder, street)
    loaded = zoo.load(f"hf:{folder}", classes=NAMES)
    assert loaded.classes == NAMES
    with Image.open(street) as photo:
        pixels = loaded.preprocess(photo.convert("RGB"))[None]
    torch.testing.assert_close(pixels, inputs["pixel_values"])
    found = loaded.model(pixels)
    torch.testing.assert_close(found.logits, want.logits)
    torch.testing.assert_close(found.pred_boxes, want.pred_boxes)
    scores = head_for(loaded.model).scores_of(found)
    assert scores.shape[2] == 3
    if folder.name == "GroundingDino":  # [CLS] a cat . dog . a red car . [SEP]
        tokens = want.logits.sigmoid()
        want_scores = [tokens[..., 1:3].amax(-1), tokens[..., 4], tokens[..., 6:9].amax(-1)]
        torch.testing.assert_close(scores, torch.stack(want_scores, -1))
    else:
        torch.testing.assert_close(scores, want.logits.sigmoid())
    two = loaded.model(pixels.repeat(2, 1, 1, 1))
    torch.testing.assert_close(two.logits[1:], want.logits, rtol=1e-3, atol=1e-4)


def test_from_a_shell_boxes_are_those_of_the_processor(folder: Path, street: Path, tmp_path: Path) -> None:
    common = ("--task", "detect", "--model", f"hf:{folder}", "--method", "odam")
    out = tmp_path / "out"
    done = run(street, *common, "--target", "text:a cat. dog. a red car", "--out", out)
    assert done.exit_code == 0, done.output
    _, outputs, processor = of_transformers(folder, street)
    if folder.name == "GroundingDino":
        (shown,) = processor.post_process_grounded_object_detection(outputs, target_sizes=[(60, 100)])
    else:
        (shown,) = processor.image_processor.post_process_object_detection(outputs, 0.1, torch.tensor([[60, 100]]))
    rows = read_lines(out / "explanations.jsonl")
    assert len(rows) > 1
    limit = torch.tensor([100.0, 60.0, 100.0, 60.0])
    boxes = torch.minimum(shown["boxes"].clamp(min=0), limit)
    for row in rows:
        far = (boxes - torch.tensor(row["box"])).abs().amax(1)
        assert far.min() < 1.0
    if folder.name != "GroundingDino":  # whose processor counts the tokens between the phrases as well
        best = shown["scores"].sort(descending=True).values[:20]
        torch.testing.assert_close(torch.tensor([row["score"] for row in rows]), best, rtol=1e-4, atol=1e-5)
    assert {row["name"] for row in rows} <= {"a cat", "dog", "a red car"}
    assert (out / "street.odam.png").is_file()

    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES))
    assert run(street, *common, "--classes", names, "--target", "dog", "--out", tmp_path / "dog").exit_code in (0, 1)
    for more, said in (
        (["--target", "top:3"], "reads words, and got none"),
        ([], "reads words, and got none"),
        (["--classes", names, "--target", "text:a cat"], "says what to look for already"),
        (["--target", "text:dog. dog"], "each name once"),
        (["--target", "text:" + "cat " * 30], "tokens"),
    ):
        refused = run(street, *common, *more, "--out", tmp_path / "no")
        assert refused.exit_code == 2, (more, refused.output)
        assert said in " ".join(refused.output.split())
    plain = run(street, "--model", f"hf:{folder}", "--target", "text:dog", "--out", tmp_path / "no")
    assert plain.exit_code == 2
    assert "add --task detect" in plain.output


def test_maps_are_those_of_the_head(folder: Path, street: Path) -> None:
    loaded = zoo.load(f"hf:{folder}", classes=NAMES)
    head = head_for(loaded.model)
    with Image.open(street) as photo:
        pixels = loaded.preprocess(photo.convert("RGB"))[None]
    (found,) = detections(head, loaded.model(pixels), threshold=0.0)
    score = box_score(int(found.candidates[0]), int(found.labels[0]), head=head)
    maps = {
        name: odam(one.activations, one.grads[0])
        for name, one in capture_levels(loaded.model, head.layers)(pixels, [score]).items()
    }
    assert any((cam > 0).sum() > 1 for cam in maps.values())


def test_words_that_are_not_one_phrase_are_refused(folder: Path) -> None:
    with pytest.raises(LoadError, match="reads words, and got none"):
        zoo.load(f"hf:{folder}").model(torch.zeros(1, 3, 64, 64))
    if folder.name == "GroundingDino":
        with pytest.raises(LoadError, match=r"no \. or"):
            zoo.load(f"hf:{folder}", classes=["mr. cat"])
