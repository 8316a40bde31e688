"""Beside Ultralytics' own `predict()` and its activation maps, and the three ways to capture; `camfn[ultralytics]`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from camfn import CamfnError, capture_levels, capture_many, explainer, image, metrics, observe
from camfn.methods import ablation_cam, d_rise, layer_cam, odam
from camfn.targets import box_score, detection_similarity, detections, head_for, pin
from camfn.transforms import fuse, fuse_maps
from tests.nets.yolos import batch, logits, photos, ultralytics, yolo

pytestmark = [pytest.mark.sweep, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("ultralytics")


DETECTORS = (
    "yolov8n.yaml", "yolov9t.yaml", "yolov10n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml", "yolov5n.yaml",
    "yolo11n-seg.yaml", "yolo26n-seg.yaml", "yolov8n-pose.yaml", "yolo26n-pose.yaml", "yolo11n-obb.yaml",
    "yolo26n-obb.yaml", "yolov8s-world.yaml", "yoloe-11s.yaml", "rtdetr-l.yaml",
)  # fmt: skip
"""Of every version and task."""

MAPPED = (
    "yolov8n.yaml", "yolov10n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml", "yolo11n-seg.yaml",
    "yolov8n-pose.yaml", "yolo11n-obb.yaml", "yolo11n-cls.yaml", "yolov8s-world.yaml", "yoloe-11s.yaml",
    "rtdetr-l.yaml",
)  # fmt: skip
"""Those whose map is compared with `visualize=True`."""


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    from PIL import Image

    Image.fromarray(photos()[0]).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def prepared(holder: Any, photo: Path) -> Tensor:
    """The tensor that `predict()` gave the network."""
    import cv2

    pixels: Tensor = holder.predictor.preprocess([cv2.imread(str(photo))]).clone()
    return pixels


def in_photo(points: Tensor, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Points (..., 2) of the letterboxed input in the photo's pixels."""
    (height, width), (h, w) = size, pixels.shape[2:]
    ratio = min(h / height, w / width)
    inner = torch.tensor([round(width * ratio), round(height * ratio)])
    start = torch.tensor([round((w - int(inner[0])) / 2 - 0.1), round((h - int(inner[1])) / 2 - 0.1)])
    return (points - start) / (inner / torch.tensor([width, height]))


@pytest.mark.parametrize("config", DETECTORS)
def test_detections_are_those_of_predict(config: str, cat: Path, tmp_path: Path) -> None:
    holder = yolo(config)
    plain, head = holder.model, head_for(holder.model)
    options: dict[str, Any] = {"imgsz": 160, "verbose": False, "save": False, "project": str(tmp_path)}
    (shown,) = holder.predict(str(cat), **options)
    pixels = prepared(holder, cat)
    with torch.no_grad():
        outputs = holder.predictor.model.model(pixels)
    (found,) = detections(head_for(holder.predictor.model.model), outputs)
    own = shown.obb if shown.obb is not None else shown.boxes
    assert len(own) == len(found.candidates) > 5
    torch.testing.assert_close(found.scores, own.conf)
    assert torch.equal(found.labels, own.cls.long())
    scores = head.scores_of(outputs)[0, found.candidates, found.labels]
    torch.testing.assert_close(scores, found.scores)
    size = shown.orig_shape
    if found.corners is not None:
        # predict() scales the sides of a turned box by one factor each, not its corners
        torch.testing.assert_close(in_photo(found.corners, pixels, size), own.xyxyxyxy, rtol=0.02, atol=2)
    else:
        boxes = found.boxes.reshape(-1, 2, 2)
        scaled = boxes * torch.tensor([size[1], size[0]]) if "rtdetr" in config else in_photo(boxes, pixels, size)
        low_corner, high_corner = torch.zeros(2), torch.tensor([size[1], size[0]]).float()
        clipped = scaled if "rtdetr" in config else torch.minimum(scaled.clamp(min=low_corner), high_corner)
        torch.testing.assert_close(clipped.flatten(1), own.xyxy, rtol=1e-4, atol=1e-3)
    assert plain is holder.model


def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keep the gray picture that `visualize=True` colors."""
    import cv2
    import ultralytics.utils.plotting as plotting

    kept: list[Any] = []

    class Keeping:
        def __getattr__(self, name: str) -> Any:
            if name != "applyColorMap":
                return getattr(cv2, name)
            return color

    def color(gray: Any, *rest: Any) -> Any:
        kept.append(gray.copy())
        return cv2.applyColorMap(gray, *rest)

    monkeypatch.setattr(plotting, "cv2", Keeping())
    return kept


def picture(net: Any, pixels: Tensor, least: float = 0.25, most: int = 16) -> Any:
    """The gray picture of `predict(visualize=True)`, of camfn's raw maps: one forward, all maps by `vmap`."""
    head = net.model[-1]
    names = [f"model.{i if i >= 0 else head.i + i}" for i in (head.f if isinstance(head.f, list) else [head.f])]
    with torch.no_grad():
        scores = logits(net(pixels), head)[0].amax(0)
    keep = (scores.sigmoid() >= least) | (scores == scores.amax())
    order = scores.masked_fill(~keep, -torch.inf).argsort(descending=True)[: min(int(keep.sum()), most)]
    run = capture_many(net, names, unused="zeros")

    def maps(which: Tensor) -> dict[str, Tensor]:
        found = run(pixels, lambda out: logits(out, head).amax(1).gather(1, which[None, None])[:, 0])
        return {name: layer_cam(one.activations, one.grads) for name, one in found.items()}

    levels = [cam.clamp(min=0) for cam in torch.vmap(maps, randomness="different")(order).values()]
    large = [functional.interpolate(cam, pixels.shape[2:], mode="bilinear", align_corners=False) for cam in levels]
    scaled = torch.stack([cam / cam.amax((2, 3), keepdim=True).clamp(min=1e-7) for cam in large])
    return (scaled.amax(0).amax(0)[0] * 255).byte().numpy()


@pytest.mark.parametrize("config", MAPPED)
def test_the_map_of_visualize_is_camfns(
    config: str, cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, holder = seen(monkeypatch), yolo(config)
    before = {name: value.clone() for name, value in holder.model.state_dict().items()}
    options: dict[str, Any] = {"imgsz": 160, "verbose": False, "save": False, "project": str(tmp_path)}
    holder.predict(str(cat), visualize=True, **options)
    pixels = prepared(holder, cat)
    fused, plain = holder.predictor.model.model, holder.model
    for net in (fused, plain):
        # right behind a forward in inference_mode, whose anchors the head has kept
        with torch.inference_mode():
            net(pixels)
        found = picture(net, pixels)
        assert kept[0].max() == 255
        assert int(np.abs(found.astype(int) - kept[0].astype(int)).max()) <= 1
    assert all(torch.equal(before[name], value) for name, value in plain.state_dict().items())
    again = holder.predict(str(cat), **options)
    assert len(again) == 1


THREE = ("yolov8n.yaml", "yolo26n.yaml", "yolo11n-seg.yaml", "yolo11n-obb.yaml", "yolov8s-world.yaml", "rtdetr-l.yaml")


def near(found: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("config", THREE)
def test_tap_each_and_vmap_agree(config: str, count: int) -> None:
    net: Any = yolo(config).model.requires_grad_(False)
    pixels, head = batch()[:count], head_for(net)
    names = [*head.layers]
    if config.startswith("rtdetr"):
        names += [f"model.{len(net.model) - 1}.input_proj.{i}" for i in range(3)]
    with torch.no_grad():
        scores = head.scores_of(net(pixels))
    which = scores.amax(2).sum(0).topk(3).indices if head.fixed else torch.tensor([0, 2, 5])
    labels = scores[0, which].argmax(1)
    run = capture_many(net, names, unused="zeros")
    targets = [box_score(int(n), int(k), head=head) for n, k in zip(which, labels, strict=True)]
    # the first run of the network is in a transform: nothing of it may stay in the head

    def grads_of(n: Tensor, k: Tensor) -> dict[str, Tensor]:
        return {name: one.grads for name, one in run(pixels, box_score(n, k, head=head)).items()}

    fresh = yolo(config).model.requires_grad_(False)
    inside = torch.vmap(
        lambda n, k: capture_many(fresh, names[:1], unused="zeros")(pixels, box_score(n, k, head=head))[names[0]].grads,
        randomness="different",
    )
    inside(which[:, None].expand(-1, count), labels[:, None].expand(-1, count))
    with torch.no_grad():
        fresh(pixels)
    together = torch.vmap(grads_of, randomness="different")(
        which[:, None].expand(-1, count), labels[:, None].expand(-1, count)
    )
    each = capture_levels(net, names)(pixels, targets)
    for place, target in enumerate(targets):
        tap = run(pixels, target)
        for name in names:
            near(each[name].grads[place], tap[name].grads)
            near(together[name][place], tap[name].grads)
            near(each[name].activations, tap[name].activations)


def test_rfdetr_is_captured_at_its_projections_and_vmap_is_refused_or_agrees() -> None:
    package = pytest.importorskip("rfdetr")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = package.RFDETRNano(pretrain_weights=None, device="cpu").model.model.eval().requires_grad_(False)
    head = head_for(net)
    assert head.layers
    pixels = functional.interpolate(batch()[:2], (384, 384))
    for count in (1, 2):
        targets = [box_score(n, 1, head=head) for n in (0, 4)]
        each = capture_levels(net, head.layers)(pixels[:count], targets)
        for place, target in enumerate(targets):
            tap = capture_many(net, head.layers, unused="zeros")(pixels[:count], target)
            for name in head.layers:
                assert tap[name].grads.any()
                near(each[name].grads[place], tap[name].grads)
    with pytest.raises(CamfnError):
        torch.vmap(lambda n: capture_many(net, head.layers)(pixels, box_score(n, 1, head=head)))(
            torch.zeros(2, 2).long()
        )


def test_perturbing_methods_are_plain_loops() -> None:
    net: Any = yolo("yolov8n.yaml").model.requires_grad_(False)
    pixels, head = batch(96)[:1], head_for(net)
    with torch.no_grad():
        scores = head.scores_of(net(pixels))[0]
    place = len(scores) - 9 + int(scores[-9:].amax(1).argmax())  # of the coarsest level, 3 x 3, which is explained
    label, layer = int(scores[place].argmax()), head.layers[-1]
    score, same = box_score(place, label, head=head), detection_similarity(place, head=head)
    module = net.get_submodule(layer)

    with torch.no_grad():
        base, without = float(score(net(pixels))), []
        activations = observe(net, layer)(pixels)[0]
        for channel in range(activations.shape[1]):

            def cut(*args: Any, which: int = channel) -> Tensor:
                changed: Tensor = args[-1].clone()
                changed[:, which] = 0
                return changed

            handle = module.register_forward_hook(cut)
            without.append(float(score(net(pixels))))
            handle.remove()
        weights = base - torch.tensor(without)
        near(explainer(ablation_cam, net, layer)(pixels, score), torch.einsum("c,bchw->bhw", weights, activations))

        coarse = (torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()
        masks = functional.interpolate(coarse, (96, 96))[:, 0]
        pinned = pin(same, net(pixels))
        total = sum(pinned(net(pixels * mask)) * mask for mask in masks)
        near(explainer(partial(d_rise, masks=masks), net, layer)(pixels, same)[0], total)

        order = explainer(ablation_cam, net, layer)(pixels, score)
        heat = functional.interpolate(image.normalize(order)[:, None], (96, 96), mode="bilinear")[:, 0]
        curve = metrics.deletion(lambda x: pinned(net(x)), pixels, heat, step=0.25, baseline=0.0)
        ranks, values = heat[0].flatten().argsort(descending=True, stable=True), [float(pinned(net(pixels)))]
        for share in (0.25, 0.5, 0.75, 1.0):
            changed = pixels.flatten(2).clone()
            changed[..., ranks[: round(share * len(ranks))]] = 0
            values.append(float(pinned(net(changed.reshape(pixels.shape)))))
        blank, back = torch.zeros_like(pixels), []
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            changed = blank.flatten(2).clone()
            chosen = ranks[: round(share * len(ranks))]
            changed[..., chosen] = pixels.flatten(2)[..., chosen]
            back.append(float(pinned(net(changed.reshape(pixels.shape)))))
        inserted = metrics.insertion(lambda x: pinned(net(x)), pixels, heat, step=0.25, baseline=0.0)
    near(curve.scores[0], torch.tensor(values))
    near(inserted.scores[0], torch.tensor(back))


@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolo26n.yaml"])
def test_fuse_takes_a_box_of_any_level(config: str) -> None:
    net: Any = yolo(config).model.requires_grad_(False)
    pixels, head = batch()[:1], head_for(net)
    for place in (3, 405, 523):  # the finest level, which nothing deeper leads to, the middle one, the coarsest
        target = box_score(place, 0, head=head)
        each = capture_levels(net, head.layers)(pixels, [target])
        maps = [odam(one.activations, one.grads[0]) for one in each.values()]
        near(fuse(odam, net, head.layers, how="max")(pixels, target), fuse_maps(maps, how="max"))
        assert bool(each[head.layers[2]].grads.any()) == (place == 523)


def test_the_holder_is_refused_with_the_part_to_pass() -> None:
    ultralytics()
    holder = yolo("yolov8n.yaml")
    with pytest.raises(CamfnError, match=r"pass its \.model"):
        head_for(holder)
    with pytest.raises(CamfnError, match="class_score explains a class"):
        head_for(yolo("yolo11n-cls.yaml").model)


def test_the_block_of_the_page_runs() -> None:
    page = (Path(__file__).parents[1] / "docs" / "detectors.md").read_text()
    names: dict[str, Any] = {}
    ultralytics()
    blocks = re.findall(r"^```(py|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks[:3]] == ["python", "python", "py"]
    for _, block in (blocks[0], blocks[2]):
        exec(compile(block, "detectors.md", "exec"), names)
    assert names["cams"].shape == (3, 12, 16)
