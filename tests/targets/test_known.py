"""`head_for`, `detections` and `capture_levels`, on transformers' and torchvision's detectors with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, CaptureError, capture, capture_each, capture_levels, capture_many, targets
from camfn.methods import odam
from camfn.targets import BoxHead, box_score, detections, detr_head, head_for, known_head, torchvision_head
from tests.nets import detectors
from tests.nets.detrs import FAMILIES, LABELS, Member, detr
from tests.nets.small import images

pytest.importorskip("transformers")

FOCAL = [name for name in FAMILIES if name not in ("Detr", "Yolos", "TableTransformer")]


@pytest.mark.parametrize("name", FAMILIES)
def test_detections_are_those_of_the_processor(name: str) -> None:
    member = detr(name)
    head = head_for(member.model)
    with torch.no_grad():
        outputs = member.model(**member.inputs)
    least = 0.99 * head.scores_of(outputs).amax(2).quantile(0.5, 1).min().item()
    shown = member.processor.post_process_object_detection(outputs, threshold=least)
    for mine, own in zip(detections(head, outputs, least), shown, strict=True):
        order = own["scores"].argsort(descending=True, stable=True)
        assert len(order)
        torch.testing.assert_close(mine.scores, own["scores"][order])
        assert torch.equal(mine.labels, own["labels"][order])
        torch.testing.assert_close(mine.boxes, own["boxes"][order])
    for i, found in enumerate(detections(head, outputs, least)):
        # each is named by the index of its candidate
        torch.testing.assert_close(head.scores_of(outputs)[i, found.candidates, found.labels], found.scores)
        torch.testing.assert_close(head.boxes_of(outputs)[i, found.candidates], found.boxes)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_activation_is_that_of_the_training_and_is_known_from_the_outputs_too(name: str) -> None:
    member = detr(name)
    found = head_for(member.model)
    assert isinstance(found.head, detr_head)
    assert found.head.activation == ("sigmoid" if name in FOCAL else "softmax")
    assert found.reason
    with torch.no_grad():
        outputs = member.model(**member.inputs)
    torch.testing.assert_close(detr_head().scores_of(outputs), found.scores_of(outputs))
    assert (found.objectness_of is None) == (name in FOCAL)
    if name not in ("GroundingDino", "OwlViT"):
        assert found.scores_of(outputs).shape[2] == LABELS


def test_plain_dicts_need_the_activation_and_both_keys_are_read() -> None:
    boxes, logits = torch.rand(2, 3, 4), torch.randn(2, 3, 5)
    for key in ("logits", "pred_logits"):
        out = {key: logits, "pred_boxes": boxes}
        with pytest.raises(CamfnError, match=r'head_for\(model\), or detr_head\("softmax"\)'):
            detr_head().scores_of(out)
        assert torch.equal(detr_head("sigmoid").scores_of(out), logits.sigmoid())
        assert torch.equal(detr_head("softmax").scores_of(out), logits.softmax(-1)[..., :-1])
    with pytest.raises(CamfnError, match="expected 4 classes, the model returned 5"):
        detr_head("sigmoid", count=4).scores_of(out)
    with pytest.raises(CamfnError, match="softmax"):
        detr_head("relu")  # type: ignore[arg-type]


def test_a_phrase_is_the_largest_of_its_tokens() -> None:
    member = detr("GroundingDino")
    with torch.no_grad():
        outputs = member.model(**member.inputs)
    tokens = detr_head("sigmoid").scores_of(outputs)
    assert bool((tokens[..., 7:] == 0).all())  # what lies behind the text is no evidence
    phrases = detr_head("sigmoid", phrases=[[1, 2], [4]])
    assert torch.equal(phrases.scores_of(outputs)[..., 0], tokens[..., 1:3].amax(-1))
    assert torch.equal(phrases.scores_of(outputs)[..., 1], tokens[..., 4])
    with pytest.raises(CamfnError, match="no token 99"):
        detr_head("sigmoid", phrases=[[99]]).scores_of(outputs)
    refused: list[Any] = [[], [1, 2], [[-1]], [[]], "a"]
    for wrong in refused:
        with pytest.raises(CamfnError, match="phrases"):
            detr_head("sigmoid", phrases=wrong)


def test_torchvision_detections_are_its_own_list() -> None:
    for make in (detectors.retinanet, detectors.fcos, detectors.faster_rcnn):
        model = make().eval()
        head = head_for(model)
        assert head.head == torchvision_head(detectors.CLASSES)
        with torch.no_grad():
            outputs = model(images(2, 3, 32, 32).sigmoid())
        for mine, own in zip(detections(head, outputs), outputs, strict=True):
            torch.testing.assert_close(mine.scores, own["scores"])
            assert torch.equal(mine.labels, own["labels"])
            assert torch.equal(mine.boxes, own["boxes"])
            assert mine.candidates.tolist() == list(range(len(own["scores"])))


def test_wrappers_are_looked_through() -> None:
    model = detectors.retinanet().eval()
    wanted = head_for(model)
    assert head_for(nn.DataParallel(model)) == wanted
    assert head_for(torch.compile(model)) == wanted  # type: ignore[arg-type]
    every = head_for(targets.unsuppressed(model))
    assert every.fixed
    assert every.head == targets.candidates_head()


class Around(nn.Module):
    """A network that holds a detector."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


class New(nn.Module):
    """What looks like a detector of transformers, but is no family that is known."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(4, size) for size in sizes])


def test_a_new_family_is_read_by_the_size_of_its_classifier_or_refused() -> None:
    from transformers import PretrainedConfig, PreTrainedModel

    class NewConfig(PretrainedConfig):  # type: ignore[misc, unused-ignore]
        model_type = "new_detr"

    class NewForObjectDetection(PreTrainedModel):  # type: ignore[misc, unused-ignore]
        config_class = NewConfig

        def __init__(self, *sizes: int) -> None:
            super().__init__(NewConfig(num_labels=6))
            self.heads = nn.ModuleList([nn.Linear(4, size) for size in sizes])

    softmax, sigmoid = head_for(NewForObjectDetection(4, 7)), head_for(NewForObjectDetection(6))
    assert isinstance(softmax.head, detr_head)
    assert isinstance(sigmoid.head, detr_head)
    assert (softmax.head.activation, sigmoid.head.activation) == ("softmax", "sigmoid")
    assert "7 outputs" in softmax.reason
    for sizes in ((6, 7), (4,)):
        with pytest.raises(CamfnError, match="labels: pass"):
            head_for(NewForObjectDetection(*sizes))


def test_what_is_no_detector_is_refused() -> None:
    import torchvision
    from transformers import DetrModel

    member = detr("Detr")
    cases: list[tuple[Any, str]] = [
        (nn.Linear(3, 4), r"BoxHead\(boxes_of, scores_of\)"),
        (torchvision.models.resnet18(weights=None), "expected a detector that camfn knows"),
        (Around(detectors.retinanet()), r"head_for\(model.inner\) reads it"),
        (DetrModel(member.model.config), "ForObjectDetection"),
        ("yolo11n.pt", "expected a network"),
    ]
    for model, message in cases:
        with pytest.raises(CamfnError, match=message):
            head_for(model)


def loop(boxes: Tensor, scores: Tensor, least: float) -> list[tuple[int, int]]:
    """Suppression by a loop: (candidate, label), the best first."""
    left = [(float(s.max()), n, int(s.argmax())) for n, s in enumerate(scores) if float(s.max()) > least]
    kept: list[tuple[int, int]] = []
    for _, n, label in sorted(left, key=lambda each: -each[0]):
        overlaps = []
        for m, other in kept:
            x0, y0 = (max(float(boxes[n, i]), float(boxes[m, i])) for i in (0, 1))
            x1, y1 = (min(float(boxes[n, i]), float(boxes[m, i])) for i in (2, 3))
            shared = max(0.0, x1 - x0) * max(0.0, y1 - y0)
            areas = sum(float((boxes[k, 2] - boxes[k, 0]) * (boxes[k, 3] - boxes[k, 1])) for k in (n, m))
            overlaps.append(other == label and shared / (areas - shared) > 0.5)
        if not any(overlaps):
            kept.append((n, label))
    return kept


def test_other_heads_are_suppressed_class_by_class() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 60, 2, generator=generator) * 4
    boxes = torch.cat([corner, corner + 3 + torch.rand(2, 60, 2, generator=generator)], -1)
    out = torch.cat([boxes, torch.rand(2, 60, 3, generator=generator)], -1)
    head = BoxHead(lambda o: o[..., :4], lambda o: o[..., 4:])
    for found, one in zip(detections(head, out, 0.4), out, strict=True):
        assert list(zip(found.candidates.tolist(), found.labels.tolist())) == loop(one[:, :4], one[:, 4:], 0.4)
        assert 5 < len(found.candidates) < 60
    assert detections(head, out, 1.0)[0].scores.shape == (0,)
    with pytest.raises(CamfnError, match="threshold"):
        detections(head, out, 2.0)


def cut(member: Member, layers: tuple[str, ...], score: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Activations and gradients by hooks and plain autograd."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            kept[name] = output if output.requires_grad else output.detach().requires_grad_()
            kept[name].retain_grad()
            return kept[name]

        return hook

    handles = [member.model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    score(member.model(**member.inputs)).sum().backward()
    for handle in handles:
        handle.remove()
    zero = {name: torch.zeros_like(kept[name]) for name in layers}
    return {n: (kept[n].detach(), zero[n] if kept[n].grad is None else kept[n].grad) for n in layers}  # type: ignore[misc]


@pytest.mark.parametrize("name", ["Detr", "DeformableDetr", "RTDetr", "RTDetrV2", "DFine", "GroundingDino"])
def test_levels_of_several_boxes_are_those_of_autograd_and_vmap_agrees(name: str) -> None:
    member = detr(name)
    head = head_for(member.model)
    assert head.layers
    which = torch.tensor([0, 3])
    scores = [box_score(int(n), 1, head=head) for n in which]
    found = capture_levels(member.model, head.layers, images="pixel_values")(member.inputs, scores)
    for place, score in enumerate(scores):
        wanted = cut(member, head.layers, score)
        tap = capture_many(member.model, head.layers, images="pixel_values", unused="zeros")(member.inputs, score)
        for layer in head.layers:
            activations, grads = wanted[layer]
            scale = float(grads.abs().max())
            torch.testing.assert_close(found[layer].activations, activations)
            torch.testing.assert_close(found[layer].grads[place], grads, rtol=1e-4, atol=1e-4 * scale)
            torch.testing.assert_close(tap[layer].grads, grads, rtol=1e-4, atol=1e-4 * scale)
    run = capture_many(member.model, head.layers, images="pixel_values", unused="zeros")

    def grads_of(n: Tensor) -> dict[str, Tensor]:
        return {layer: c.grads for layer, c in run(member.inputs, box_score(n, 1, head=head)).items()}

    together = torch.vmap(grads_of, randomness="different")(which[:, None].expand(-1, 2))
    for layer in head.layers:
        scale = float(found[layer].grads.abs().max())
        torch.testing.assert_close(together[layer], found[layer].grads, rtol=1e-4, atol=1e-4 * scale)


class Pyramid(nn.Module):
    """Two levels, each with a score of its own; the network makes the second of the first, the third serves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        one = self.first(x)
        two = self.second(one.tanh())
        self.idle(two)
        return torch.stack([one.square().sum((1, 2, 3)), two.square().sum((1, 2, 3)), x.sum((1, 2, 3))], 1)


def test_a_level_that_a_score_does_not_use_is_zero_and_a_score_without_any_is_refused() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Pyramid()
    x = images(2, 3, 8, 8)
    found = capture_levels(net, ["second", "first", "idle"])(x, [0, 1])
    assert list(found) == ["second", "first", "idle"]
    assert not found["second"].grads[0].any()
    assert not found["idle"].grads.any()
    for place in (0, 1):
        torch.testing.assert_close(found["first"].grads[place], capture(net, "first")(x, place).grads)
    torch.testing.assert_close(found["second"].grads[1:], capture_each(net, "second")(x, [1]).grads)
    assert found["first"].outputs.shape == (2, 3)
    assert not found["first"].outputs.requires_grad
    assert torch.vmap(odam, (None, 0))(*found["first"][:2]).shape == (2, 2, 8, 8)
    with pytest.raises(CaptureError):
        capture_levels(net, ["first", "second"])(x, [0, lambda _: torch.ones(2)])
    with pytest.raises(CaptureError):
        capture_levels(net, ["first", "third"])
    with pytest.raises(CamfnError):
        capture_levels(net, ["first"])(x, [])


def test_a_known_head_is_a_head() -> None:
    plain = detr_head("softmax", fixed=True)
    head = known_head(plain, "why", layers=("a",))
    out = {"logits": torch.randn(1, 5, 4), "pred_boxes": torch.rand(1, 5, 4)}
    assert torch.equal(head.boxes_of(out), plain.boxes_of(out))
    assert box_score(1, 2, head=head)(out) == box_score(1, 2, head=plain)(out)
    assert head.fixed
    assert head != known_head(plain, "why not", layers=("a",))
