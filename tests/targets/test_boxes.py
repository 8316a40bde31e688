"""Targets of detectors, on heads of our own, torchvision's detectors, and DETR and YOLOS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from camfn import CamfnError, capture, capture_each, explainer
from camfn._shared.maps import resize
from camfn.methods import grad_cam, hires_cam, odam
from camfn.targets import (
    BoxHead,
    box_score,
    detection_similarity,
    detr_head,
    moved,
    overlap_score,
    pin,
    torchvision_head,
)
from camfn.transforms import augment, flip, fuse, multiply
from tests.nets.small import images, reference, unchanged

HEAD = BoxHead(lambda out: out[..., :4], lambda out: out[..., 5:], lambda out: out[..., 4])


def candidates(batch: int = 2, count: int = 6, classes: int = 3, seed: int = 0) -> Tensor:
    """Boxes with some overlap, objectness, and class scores, (B, N, 5 + K)."""
    generator = torch.Generator().manual_seed(seed)
    low = 8 * torch.rand(batch, count, 2, generator=generator, dtype=torch.float64)
    size = 2 + 6 * torch.rand(batch, count, 2, generator=generator, dtype=torch.float64)
    rest = torch.rand(batch, count, 1 + classes, generator=generator, dtype=torch.float64)
    return torch.cat([low, low + size, rest], -1)


def naive_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0.0


BOX = [3.0, 3.0, 9.0, 10.0]


# ------------------------------------------------------------------------------------------------------ against oracles


@pytest.mark.parametrize(
    "part", ["class", "objectness", "x0", "y0", "x1", "y1", "center_x", "center_y", "width", "height"]
)
def test_a_part_of_a_chosen_candidate(part: Any) -> None:
    out = candidates()
    found = box_score(torch.tensor([4, 1]), 2, head=HEAD, part=part)(out)
    for row, n, value in zip(out.tolist(), (4, 1), found.tolist(), strict=True):
        x0, y0, x1, y1, objectness, *scores = row[n]
        known = {"class": scores[2], "objectness": objectness, "x0": x0, "y0": y0, "x1": x1, "y1": y1}
        known |= {"center_x": (x0 + x1) / 2, "center_y": (y0 + y1) / 2, "width": x1 - x0, "height": y1 - y0}
        assert value == pytest.approx(known[part])


@pytest.mark.parametrize("label", [None, 1])
def test_coordinates_stand_for_the_candidate_of_the_largest_overlap_times_score(label: int | None) -> None:
    out = candidates(3)
    found = box_score(BOX, label, head=HEAD)(out)
    for rows, value in zip(out.tolist(), found.tolist(), strict=True):
        fit = [naive_iou(row[:4], BOX) * (max(row[5:]) if label is None else row[5 + label]) for row in rows]
        best = rows[fit.index(max(fit))]
        assert value == pytest.approx(max(best[5:]) if label is None else best[5 + label])


def test_no_box_stands_for_the_best_candidate() -> None:
    out = candidates(3)
    torch.testing.assert_close(box_score(head=HEAD)(out), out[..., 5:].amax((1, 2)))
    torch.testing.assert_close(box_score(None, 1, head=HEAD)(out), out[..., 6].amax(1))


@pytest.mark.parametrize("label", [0, [2, 0]])
def test_overlap_score(label: Any) -> None:
    out = candidates()
    found = overlap_score(BOX, label, head=HEAD)(out)
    for i, rows in enumerate(out.tolist()):
        own = label if isinstance(label, int) else label[i]
        assert found[i].item() == pytest.approx(max(naive_iou(row[:4], BOX) * row[5 + own] for row in rows))


def test_overlap_score_of_the_best_class() -> None:
    out = candidates()
    found = overlap_score(BOX, head=HEAD)(out)
    for rows, value in zip(out.tolist(), found.tolist(), strict=True):
        assert value == pytest.approx(max(naive_iou(row[:4], BOX) * max(row[5:]) for row in rows))


@pytest.mark.parametrize("objectness", [True, False])
def test_detection_similarity(objectness: bool) -> None:
    head = HEAD if objectness else replace(HEAD, objectness_of=None)
    out, wanted = candidates(), torch.tensor([0.2, 0.5, 0.1], dtype=torch.float64)
    found = detection_similarity(BOX, head=head, probabilities=wanted)(out)
    for rows, value in zip(out.tolist(), found.tolist(), strict=True):
        each = []
        for row in rows:
            scores = torch.tensor(row[5:], dtype=torch.float64)
            cosine = (scores @ wanted / scores.norm() / wanted.norm()).item()
            each.append(naive_iou(row[:4], BOX) * cosine * (row[4] if objectness else 1))
        assert value == pytest.approx(max(each))


def test_a_detection_is_most_like_itself() -> None:
    out = candidates()
    target = pin(detection_similarity(3, head=replace(HEAD, objectness_of=None)), out)
    torch.testing.assert_close(target(out), torch.ones(2, dtype=torch.float64))
    assert (target(candidates(seed=5)) < 1).all()


# ----------------------------------------------------------------------------------------- choices, moves, and refusals


def test_a_pinned_target_keeps_to_its_candidate_where_candidates_are_places() -> None:
    out = candidates()
    target = pin(box_score(BOX, head=HEAD), out)
    torch.testing.assert_close(target(out), box_score(BOX, head=HEAD)(out))
    shifted = torch.cat([out[..., :4] + 100, out[..., 4:] / 2], -1)
    torch.testing.assert_close(target(shifted), target(out) / 2)


def test_a_pinned_target_looks_for_its_box_where_candidates_are_sorted() -> None:
    head = replace(HEAD, fixed=False)
    out = candidates()
    target = pin(box_score(2, head=head), out)
    torch.testing.assert_close(target(out.flip(1)), box_score(2, head=head)(out))
    gone = torch.cat([out[..., :4] + 100, out[..., 4:]], -1)
    assert not target(gone).any(), "no box there any more"


def mirrored(out: Tensor, width: float = 16) -> Tensor:
    """What a detector that knows no left and right says of the mirror image, its candidates in another order."""
    x0, y0, x1, y1 = out[..., :4].unbind(-1)
    return torch.cat([torch.stack([width - x1, y0, width - x0, y1], -1), out[..., 4:]], -1).flip(1)


BUILDERS = [box_score, overlap_score, detection_similarity]


@pytest.mark.parametrize("scale", [1, 1 / 20], ids=["pixels", "fractions"])
@pytest.mark.parametrize("build", BUILDERS)
def test_coordinates_move_with_the_image(build: Any, scale: float) -> None:
    out = candidates()
    out[..., :4] *= scale
    target = build(torch.tensor(BOX) * scale, 1, head=HEAD, size=(20, 16) if scale == 1 else (1, 1))
    width = 16 if scale == 1 else 1
    torch.testing.assert_close(
        moved(target, lambda mask: mask.flip(-1))(mirrored(out, width)), target(out), rtol=0.02, atol=0
    )


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("box", [2, None, torch.tensor([1, 3])], ids=str)
@pytest.mark.parametrize("build", BUILDERS)
def test_a_candidate_moves_once_it_is_pinned(build: Any, box: Any, fixed: bool) -> None:
    out, head = candidates(), replace(HEAD, fixed=fixed)
    target = build(box, head=head, size=(20, 16))
    found = moved(pin(target, out), lambda mask: mask.flip(-1))(mirrored(out))
    torch.testing.assert_close(found, target(out), rtol=0.02, atol=0)
    with pytest.raises(ValueError, match=r"known only from the model's outputs: pin\(target, outputs\)"):
        moved(target, lambda mask: mask.flip(-1))


@pytest.mark.parametrize("box", [2, None, BOX], ids=str)
@pytest.mark.parametrize("build", BUILDERS)
def test_a_box_without_the_size_of_its_image_is_not_moved(build: Any, box: Any) -> None:
    with pytest.raises(ValueError, match=r"size=\(height, width\)"):
        moved(pin(build(box, head=HEAD), candidates()), lambda mask: mask.flip(-1))


@pytest.mark.parametrize("call", ["explain", "shifted"])
def test_boxes_of_torchvision_under_augmentation(call: str) -> None:
    """Lists with a dict for each image, of which every variant has its own."""
    model, layer, batch = detector("retinanet_resnet50_fpn"), "backbone.fpn.layer_blocks.0", images(2, 3, 64, 64)
    head, explain = torchvision_head(), explainer(hires_cam, model, layer)
    with torch.no_grad():
        boxes = torch.stack([one["boxes"][0] for one in model(batch)])
    target = box_score(boxes, head=head, size=(64, 64))
    if call == "explain":
        found = augment(explain, [multiply(1), flip(-1)])(batch, target)
        x0, y0, x1, y1 = boxes.unbind(1)
        with torch.no_grad():
            there = pin(box_score(torch.stack([64 - x1, y0, 64 - x0, y1], 1), head=head), model(batch.flip(-1)))
        want = (explain(batch, target) + explain(batch.flip(-1), there).flip(-1)) / 2
        torch.testing.assert_close(found, want)
    else:
        with pytest.raises(ValueError, match="where they go"):
            augment(explain, [(lambda x: x.roll(8, -1), lambda cam: cam.roll(-1, -1))])(batch, target)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: box_score(head=HEAD, part="area"), "part: expected"),  # type: ignore[arg-type]
        (lambda: box_score(head=replace(HEAD, objectness_of=None), part="objectness"), "objectness_of"),
        (lambda: box_score(6, head=HEAD)(candidates()), "6 candidates"),
        (lambda: box_score([1.0, 2.0], head=HEAD)(candidates()), r"\(4,\) or \((2|B), 4\)"),
        (lambda: box_score(torch.tensor([1, 2, 3]), head=HEAD)(candidates()), "one a sample"),
        (lambda: box_score(0, 3, head=HEAD)(candidates()), "class 3 is out of range"),
        (lambda: box_score(0, head=BoxHead(lambda o: o[0], lambda o: o))(candidates()), "boxes .B, N, 4."),
        (lambda: torchvision_head().boxes_of(torch.zeros(1)), "list of dicts"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_torchvision_images_without_detections() -> None:
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    one = {"boxes": torch.ones(1, 4), "labels": torch.tensor([2]), "scores": torch.tensor([0.9])}
    head = torchvision_head(4)
    for outputs in ([none, none], [none, one]):
        assert head.boxes_of(outputs).shape == (2, 1, 4)
        assert head.scores_of(outputs)[0].tolist() == [[0, 0, 0, 0]]
        assert box_score(head=head)(outputs)[0] == 0
        assert overlap_score([0, 0, 1, 1], 2, head=head)(outputs)[0] == 0


# ---------------------------------------------------------------------------------------------------------- real models

SMALL: dict[str, Any] = {"weights": None, "weights_backbone": None}
TORCHVISION: dict[str, tuple[dict[str, Any], str]] = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": (
        {"box_score_thresh": 0.0, "min_size": 64, "max_size": 64, "rpn_post_nms_top_n_test": 20},
        "backbone.fpn.layer_blocks.0",
    ),
    "retinanet_resnet50_fpn": (
        {"score_thresh": 0.0, "min_size": 64, "max_size": 64, "topk_candidates": 50},
        "backbone.fpn.layer_blocks.0",
    ),
    "fcos_resnet50_fpn": (
        {"score_thresh": 0.0, "min_size": 64, "max_size": 64, "topk_candidates": 50},
        "backbone.fpn.layer_blocks.0",
    ),
    "ssd300_vgg16": ({"score_thresh": 0.0, "topk_candidates": 20}, "backbone.extra.0"),
    "ssdlite320_mobilenet_v3_large": ({"score_thresh": 0.0, "topk_candidates": 20}, "backbone.features.0"),
}


def detector(name: str) -> nn.Module:
    from torchvision.models import detection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = getattr(detection, name)(**SMALL, **TORCHVISION[name][0]).eval()
    return model


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_detectors(name: str) -> None:
    # over 5 s for SSD: VGG-16 at 300 x 300, forward and backward
    model, layer, batch = detector(name), TORCHVISION[name][1], images(2, 3, 64, 64).sigmoid()
    head = torchvision_head()
    with torch.no_grad():
        found = model(batch)
    box, label = found[0]["boxes"][1], int(found[0]["labels"][1])
    targets = [box_score(0, head=head), box_score(1, head=head, part="width"), overlap_score(box, label, head=head)]
    if name == "ssd300_vgg16":  # slow: sees everything at 300 pixels
        targets = targets[:1]
    with unchanged(model):
        each = capture_each(model, layer)(batch, targets)
        for target, grads in zip(targets, each.grads, strict=True):
            captured = capture(model, layer)(batch, target)
            assert not captured.outputs[0]["scores"].requires_grad
            torch.testing.assert_close(captured.grads, grads)
    activations, grads, _ = reference(model, layer, lambda m: m(batch), targets[0])
    torch.testing.assert_close(each.activations, activations)
    torch.testing.assert_close(each.grads[0], grads)
    assert grads.any()
    assert explainer(hires_cam, model, layer)(batch, box_score(head=head)).shape == activations[:, 0].shape


@pytest.mark.parametrize("name", ["Detr", "Yolos"])
def test_detr_like_heads(name: str) -> None:
    import transformers

    common: dict[str, Any] = {"num_labels": 3}
    if name == "Detr":
        backbone = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
        )
        common |= {"use_timm_backbone": False, "backbone": None, "backbone_config": backbone, "d_model": 16}
        common |= {"use_pretrained_backbone": False, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 5}
        common |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        layer = "model.backbone.model.encoder.stages.1"
    else:
        common |= {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
        common |= {"image_size": [64, 64], "patch_size": 16, "num_detection_tokens": 5}
        layer = "vit.encoder.layer.1.layernorm_before"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForObjectDetection")(getattr(transformers, f"{name}Config")(**common))
    model.eval()
    batch = {"pixel_values": images(2, 3, 64, 64)}
    head = detr_head()
    for target in (
        box_score(1, 2, head=head),
        box_score(head=head, part="objectness"),
        box_score(0, head=head, part="center_x"),
        overlap_score([0.2, 0.2, 0.8, 0.9], 1, head=head),
    ):
        with unchanged(model):
            captured = capture(model, layer, layout=None)(batch, target)
        _, grads, outputs = reference(model, layer, lambda m: m(**batch), target)
        torch.testing.assert_close(captured.grads, grads)
        assert grads.any()
    scores = head.scores_of(outputs)
    assert scores.shape == (2, 5, 3)
    assert (head.boxes_of(outputs)[..., 2:] > head.boxes_of(outputs)[..., :2]).all()
    objectness = head.objectness_of
    assert objectness is not None
    assert torch.allclose(scores.sum(-1), objectness(outputs))


def test_odam_of_one_box_fused_over_the_levels_of_a_pyramid() -> None:
    """A one-stage detector reads each level by itself, and a box comes from one: the others' maps are zero."""
    model, batch = detector("fcos_resnet50_fpn"), images(1, 3, 64, 64).sigmoid()
    levels = [f"backbone.fpn.layer_blocks.{i}" for i in range(3)]
    seen = set()
    for n in range(0, 20, 4):
        target = box_score(n, head=torchvision_head())
        found = fuse(odam, model, "backbone.fpn.layer_blocks.?", how="max", scaling="none")(batch, target)
        apart = [odam(*reference(model, level, lambda m: m(batch), target)) for level in levels]
        own = [i for i, cam in enumerate(apart) if cam.any()]
        assert len(own) < 2
        want = resize(apart[own[0] if own else 0][:, None], apart[0].shape[1:])[:, 0]
        torch.testing.assert_close(found, want)
        seen |= set(own)
    assert len(seen) > 1


# ------------------------------------------------------------------------------------------------- boxes of one forward


class Counting(nn.Module):
    """A one-stage detector that counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 7, 1)
        self.forwards: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.forwards.append(1)
        rows: Tensor = self.head(self.body(x).relu()).flatten(2).mT
        low = rows[..., :2].sigmoid()
        return torch.cat([low, low + rows[..., 2:4].exp(), rows[..., 4:].sigmoid()], -1)


@pytest.mark.parametrize("how", ["vmap", "capture_each"])
def test_all_boxes_of_an_image_cost_one_forward(how: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Counting().double().eval()
    batch, boxes = images(2, 3, 6, 6).double(), torch.tensor([0, 7, 20, 35])
    one_by_one = torch.stack([grad_cam(*capture(model, "body")(batch, box_score(n, head=HEAD))) for n in boxes])
    model.forwards.clear()
    if how == "vmap":
        cams = vmap(lambda n: grad_cam(*capture(model, "body")(batch, box_score(n, head=HEAD))))(boxes)
    else:
        activations, grads, _ = capture_each(model, "body")(batch, [box_score(n, head=HEAD) for n in boxes])
        cams = vmap(grad_cam, in_dims=(None, 0))(activations, grads)
    assert len(model.forwards) == 1
    torch.testing.assert_close(cams, one_by_one)


def test_boxes_of_coordinates_under_vmap() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Counting().double().eval()
    batch = images(2, 3, 6, 6).double()
    boxes = torch.tensor([[0.2, 0.2, 1.0, 1.0], [0.5, 0.1, 2.0, 1.5]], dtype=torch.float64)

    def explain(box: Tensor) -> Tensor:
        return grad_cam(*capture(model, "body")(batch, overlap_score(box, 1, head=HEAD)))

    torch.testing.assert_close(vmap(explain)(boxes), torch.stack([explain(box) for box in boxes]))


def test_one_forward_of_a_two_stage_detector() -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    model, forwards = detector(name), []
    model.get_submodule("backbone").register_forward_hook(lambda *_: forwards.append(1))
    head, batch = torchvision_head(), images(1, 3, 64, 64).sigmoid()
    found = capture_each(model, TORCHVISION[name][1])(batch, lambda out: head.scores_of(out).amax(2).mT[:5])
    assert len(forwards) == 1
    assert found.grads.shape[:2] == (5, 1)
    assert (found.grads.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    ("targets", "message"),
    [([], "at least one"), (lambda out: out.sum(1), r"scores \(T, B\)"), ([lambda out: out], "one floating-point")],
)
def test_capture_each_refuses(targets: Any, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with unchanged(model), pytest.raises(ValueError, match=message):
        capture_each(model, "0")(images(2, 3, 6, 6), targets)


def test_capture_each_needs_no_gradient_of_the_outside() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 5)).requires_grad_(
        False
    )
    x = images(2, 3, 6, 6)
    with torch.inference_mode():
        found = capture_each(model, "0", unused="zeros")(x, [0, [1, 2], lambda out: torch.ones(2)])
    given: list[Any] = [0, [1, 2]]
    for target, grads in zip(given, found.grads, strict=False):
        torch.testing.assert_close(grads, capture(model, "0")(x, target).grads)
    assert not found.grads[2].any()


def test_detr_head_refuses_other_outputs() -> None:
    for outputs in (
        torch.zeros(2, 5),
        torch.zeros(2, 3, 5),
        {"logits": torch.zeros(2, 5), "pred_boxes": torch.zeros(2, 4)},
    ):
        with pytest.raises(CamfnError, match=r"detr_head reads logits \(B, N, K\) .*BoxHead"):
            box_score(0, head=detr_head())(outputs)
