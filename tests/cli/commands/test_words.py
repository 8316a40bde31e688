"""`camfn words`: the strip of an answer, its maps, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from camfn import words
from camfn._shared.errors import LoadError
from camfn.cli._app import app
from camfn.cli._jobs.words import _inputs
from tests.nets.multimodal import IMAGE, load

WORDS = [f"w{n}" for n in range(IMAGE)]


def tokenizer(bos: str | None = None) -> Any:
    """A tokenizer of words, which puts a token before each text where there is one."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: n for n, word in enumerate(WORDS)} | {"<image>": IMAGE, "<unk>": IMAGE + 1}
    spelled = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    spelled.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        spelled.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=spelled, bos_token=bos, unk_token="<unk>", extra_special_tokens={"image_token": "<image>"}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as save_pretrained writes it: a tiny LLaVA with a tokenizer of words."""
    import transformers

    place = tmp_path_factory.mktemp("llava")
    looks = transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    processor = transformers.LlavaProcessor(
        looks, tokenizer(), patch_size=16, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1,
    )  # fmt: skip
    model: Any = load("llava").model
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return place


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)).save(path)
    return path


def run(*given: object) -> Result:
    return CliRunner().invoke(app, ["words", *map(str, given)])


def test_the_strip_and_the_maps_are_written(folder: Path, photo: Path, tmp_path: Path) -> None:
    out, maps = tmp_path / "strip.png", tmp_path / "maps.npz"
    result = run(photo, "--model", f"hf:{folder}", "--ask", "w5 w6", "--words", 4, "--out", out, "--maps", maps)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (answer,) = [line[line.index("answer: ") :] for line in lines if "answer: w" in line]
    assert lines[-1] == f"picture: {out}"
    assert sum("log p changes by" in line for line in lines) == 4
    assert "not read from the photo" in result.output
    with Image.open(out) as picture:
        assert picture.width > picture.height
    with np.load(maps) as held:
        assert held["maps_0"].shape == (4, 4, 4)
        assert held["words"].tolist() == answer.removeprefix("answer: ").split()
        assert held["parts"].tolist() == ["picture 0: image"]
        assert held["read"].shape == held["gains"].shape == (4,)


def test_maps_are_those_of_the_library(folder: Path, photo: Path, tmp_path: Path) -> None:
    import transformers

    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    with Image.open(photo) as picture:
        inputs = dict(processor(text="<image>\nw5", images=[picture.convert("RGB")], return_tensors="pt"))
    for method, layer in (("tam", None), ("grad_cam", "language"), ("drops", None)):
        maps = tmp_path / f"{method}.npz"
        options = ("--layer", layer) if layer else ()
        given = ("--ask", "w5", "--answer", "w7 w8", "--method", method, "--out", tmp_path / f"{method}.png")
        result = run(photo, "--model", f"hf:{folder}", *given, "--maps", maps, *options)
        assert result.exit_code == 0, result.output
        if method == "drops":
            expected = words.drops(model, inputs, [7, 8])
        else:
            expected = words.explain(model, inputs, [7, 8], method=method, layer=layer)
        with np.load(maps) as held:
            torch.testing.assert_close(torch.tensor(held["maps_0"]), expected.maps[0])


@pytest.mark.parametrize("first", ["{{ bos_token }}", ""])
def test_a_prompt_of_a_chat_template_begins_once(first: str) -> None:
    import transformers

    looks = transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    template = first + "{% for part in messages[0].content %}{{ part.get('text', '<image>') + ' ' }}{% endfor %} w3"
    processor = transformers.LlavaProcessor(
        looks, tokenizer("w1"), patch_size=16, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=template.replace("}}{%", "}} {%", 1),
    )  # fmt: skip
    ids = _inputs(processor, Image.new("RGB", (64, 64)), "w5")["input_ids"]
    assert ids.tolist() == [[1, *[IMAGE] * 16, 5, 3]]


def test_the_prompt_of_paligemma_is_its_task_behind_the_picture() -> None:
    asked: list[str] = []

    class PaliGemmaProcessor:
        image_token, chat_template = "<image>", None

        def __call__(self, *, text: str, **given: Any) -> dict[str, Any]:
            asked.append(text)
            return {}

    _inputs(PaliGemmaProcessor(), Image.new("RGB", (4, 4)), "caption en")
    assert asked == ["<image>caption en"]


@pytest.mark.parametrize("kind", [ValueError, IndexError, KeyError, AssertionError])
def test_a_photo_of_which_the_processor_makes_no_input_is_refused(kind: type[Exception]) -> None:
    """Whatever the processor raises, as Mistral 3's an IndexError of a photo of one pixel."""

    def fail(**given: Any) -> Any:
        raise kind("aspect ratio must be smaller than 200")

    fail.image_token = "<image>"  # type: ignore[attr-defined]
    with pytest.raises(LoadError, match=r"makes no input of this photo of 4 x 900 pixels .* smaller than 200"):
        _inputs(fail, Image.new("RGB", (4, 900)), "w5")


def mistral(folder: Path, **own: Any) -> Path:
    """A tiny Mistral 3 with its processor, which joins two patches a side unless `own` says otherwise."""
    import transformers

    spelled = tokenizer()
    spelled.add_tokens(["[IMG_BREAK]", "[IMG_END]"])
    looks = transformers.PixtralImageProcessor(size={"longest_edge": 128}, patch_size=16)
    options: dict[str, Any] = {"patch_size": 16, "spatial_merge_size": 2, **own}
    processor = transformers.PixtralProcessor(looks, spelled, image_token="<image>", **options)
    model: Any = load("mistral3").model
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_photo_of_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(tmp_path / "one.png")
    out, whole, small = tmp_path / "out.png", mistral(tmp_path / "a"), mistral(tmp_path / "b", spatial_merge_size=1)
    given = ("--ask", "w5", "--words", 2, "--out", out)
    result = run(tmp_path / "one.png", "--model", f"hf:{whole}", *given)
    assert result.exit_code == 2, result.output
    assert "make the photo larger than 32 pixels on one side" in " ".join(result.output.split())
    result = run(tmp_path / "one.png", "--model", f"hf:{small}", *given, "--force")
    assert result.exit_code == 2
    assert "less than the 32 x 32 of one place" in " ".join(result.output.split())


def test_a_package_that_a_processor_misses_is_named_before_the_model_is_read(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    place = tmp_path / "smol"
    model: Any = load("smolvlm").model
    model.config.save_pretrained(place)
    transformers.SmolVLMImageProcessor().save_pretrained(place)
    transformers.SmolVLMVideoProcessor().save_pretrained(place)
    tokenizer().save_pretrained(place)
    (place / "processor_config.json").write_text('{"processor_class": "SmolVLMProcessor"}')
    result = run(photo, "--model", f"hf:{place}", "--out", tmp_path / "out.png")
    assert result.exit_code == 2
    assert "needs a package that is not installed: Package `num2words`" in " ".join(result.output.split())


def test_the_photo_is_never_replaced(folder: Path, photo: Path) -> None:
    before = photo.read_bytes()
    result = run(photo, "--model", f"hf:{folder}", "--answer", "w5", "--out", photo, "--force")
    assert result.exit_code == 2
    assert "would replace a photo" in result.output.replace("\n", " ")
    assert photo.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--model", "lite0"), "expected hf:FOLDER"),
        (("--model", "hf:{folder}", "--out", "a.gif"), "expected a name in"),
        (("--model", "hf:{folder}", "--maps", "a.csv"), "expected a name in"),
        (("--model", "hf:{folder}", "--method", "score_cam"), "needs more"),
        (("--model", "hf:{folder}", "--layer", "lm_head", "--method", "grad_cam"), "no map of the pictures"),
        (("--model", "hf:{empty}"), "hf:"),
        (("--model", "hf:{empty}", "--method", "none"), "no method"),
        (("--model", "hf:{empty}", "--least", "3"), "--least: expected"),
        (("--model", "hf:{empty}", "--font", "none.ttf"), "--font none.ttf"),
        (("--model", "hf:{folder}", "--maps", "a.png"), "--maps a.png"),
        (("--model", "hf:/no/such/folder"), "no such folder"),
        (("--model", "hf:{folder}", "--ask", "w5 <image>"), "stands for a photo"),
    ],
)
def test_what_cannot_be_done_is_refused(
    options: tuple[str, ...], text: str, folder: Path, photo: Path, tmp_path: Path
) -> None:
    given = [option.format(folder=folder, empty=tmp_path) for option in options]
    out = () if "--out" in given else ("--out", tmp_path / "out.png")
    result = run(photo, *given, *out, "--words", 2)
    assert result.exit_code == 2, result.output
    assert text in result.output.replace("\n", " ")
    assert not list(tmp_path.glob("*.npz"))


def test_a_classifier_says_no_words(photo: Path, tmp_path: Path) -> None:
    import transformers

    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    result = run(photo, "--model", f"hf:{tmp_path / 'vit'}", "--out", tmp_path / "out.png")
    assert result.exit_code == 2
    assert "says no words of an image" in result.output.replace("\n", " ")
