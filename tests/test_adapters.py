"""Adapters, each against the package whose form it takes."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camfn import CamfnError, explainer, image, methods, metrics
from camfn.adapters import LayerAttribution, quantus_explain, torchmetric

pytestmark = pytest.mark.filterwarnings("default")


def net() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 4)).eval()
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return made


IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
CLASSES = torch.tensor([0, 3, 1])


def test_quantus_takes_the_explanation() -> None:
    quantus = pytest.importorskip("quantus", reason="needs Quantus: pip install quantus")
    model, explain = net(), quantus_explain(methods.layer_cam, "1")
    heatmap = image.upsample(image.normalize(explainer(methods.layer_cam, model, "1")(IMAGES, CLASSES)), (8, 8))
    found = explain(model=model, inputs=IMAGES.numpy(), targets=CLASSES.numpy(), device="cpu")
    assert np.array_equal(found, heatmap[:, None].numpy())
    sparse = quantus.Sparseness(abs=True, normalise=False, disable_warnings=True)
    theirs = sparse(
        model=model, x_batch=IMAGES.numpy(), y_batch=CLASSES.numpy(), a_batch=None, explain_func=explain, device="cpu"
    )
    # Quantus adds 1e-7 to each value
    assert theirs == pytest.approx(metrics.sparseness(heatmap).tolist(), abs=1e-4)


def test_quantus_signed_maps_keep_their_sign() -> None:
    cam = explainer(methods.hires_cam, net(), "1")(IMAGES, CLASSES)
    found = quantus_explain(methods.hires_cam, "1", signed=True)(net(), IMAGES, CLASSES)
    assert np.array_equal(found[:, 0], cam.numpy())
    assert (found < 0).any()


def test_attribute_is_captum_s_layer_grad_cam() -> None:
    captum = pytest.importorskip("captum.attr", reason="needs Captum: pip install captum")
    model = net()
    theirs = captum.LayerGradCam(model, model[1]).attribute(IMAGES, target=CLASSES)
    ours = LayerAttribution(methods.grad_cam, model, "1").attribute(IMAGES, target=CLASSES)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs.detach(), atol=1e-6)


def test_captum_s_metric_takes_the_attribute() -> None:
    captum = pytest.importorskip("captum.metrics", reason="needs Captum: pip install captum")
    model = net()
    noise = 0.02 * torch.ones(3, 3, 8, 8)
    attribution = LayerAttribution(methods.layer_cam, model, "1")

    def shift(inputs: Tensor | tuple[Tensor, ...], radius: float) -> tuple[Tensor]:
        first = inputs[0] if isinstance(inputs, tuple) else inputs
        return (first + noise,)

    def explained(inputs: tuple[Tensor, ...], target: Tensor) -> tuple[Tensor]:
        # Captum makes the images a tuple, and takes a tuple back
        return (attribution.attribute(inputs, target),)

    theirs = captum.sensitivity_max(
        explained,
        IMAGES,
        perturb_func=shift,
        n_perturb_samples=1,
        norm_ord="fro",
        target=CLASSES,
    )
    explain = explainer(methods.layer_cam, model, "1")
    ours = metrics.max_sensitivity(lambda x: explain(x, CLASSES), IMAGES, noise=noise[:1])
    assert theirs.tolist() == pytest.approx(ours.tolist(), rel=1e-4)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor, factor: Tensor) -> Tensor:
        scores: Tensor = self.net(factor * x)
        return scores


def test_attribute_passes_arguments_on_and_interpolates() -> None:
    model = Scaled().eval()
    twice = LayerAttribution(methods.grad_cam, model, "net.1").attribute(IMAGES, CLASSES, torch.tensor(2.0))
    plain = LayerAttribution(methods.grad_cam, model.net, "1").attribute(2 * IMAGES, CLASSES)
    assert torch.allclose(twice, plain, atol=1e-6)
    larger = LayerAttribution(methods.grad_cam, net(), "1").attribute(IMAGES, 1, interpolate=True)
    assert larger.shape == (3, 1, 8, 8)


HEATMAPS = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(2))
BOXES = torch.tensor([[1, 2, 6, 7]]).expand(5, 4)


def test_an_accumulated_metric_is_the_mean_of_all() -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="needs torchmetrics: pip install torchmetrics")
    energy = torchmetric(metrics.energy_in_box)
    assert isinstance(energy, torchmetrics.Metric)
    mean = torchmetrics.MeanMetric()
    for part in (slice(0, 2), slice(2, 5)):
        energy.update(HEATMAPS[part], BOXES[part])
        mean.update(metrics.energy_in_box(HEATMAPS[part], BOXES[part]))
    assert energy.compute().item() == pytest.approx(mean.compute().item(), rel=1e-6)
    energy.reset()
    energy.update(HEATMAPS[:1], BOXES[:1])
    assert energy.compute().item() == pytest.approx(metrics.energy_in_box(HEATMAPS[:1], BOXES[:1]).item())


def test_a_collection_holds_several_and_options_are_bound() -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="needs torchmetrics: pip install torchmetrics")
    strict = torchmetric(metrics.iou, threshold=0.8)
    both = torchmetrics.MetricCollection({"iou": torchmetric(metrics.iou), "strict": strict})
    both.update(HEATMAPS, BOXES)
    found = both.compute()
    assert found["iou"].item() == pytest.approx(metrics.iou(HEATMAPS, BOXES).mean().item())
    assert found["strict"].item() == pytest.approx(metrics.iou(HEATMAPS, BOXES, threshold=0.8).mean().item())


def test_a_metric_of_a_set_joins_its_samples() -> None:
    pytest.importorskip("torchmetrics", reason="needs torchmetrics: pip install torchmetrics")
    found = torchmetric(metrics.box_ious, join=metrics.max_box_acc, thresholds=(0.3, 0.6))
    for part in (slice(0, 2), slice(2, 5)):
        found.update(HEATMAPS[part], BOXES[part])
    whole = metrics.max_box_acc(metrics.box_ious(HEATMAPS, BOXES, thresholds=(0.3, 0.6)))
    assert found.compute() == whole


def test_an_accumulated_metric_is_pickled_and_copied_with_its_samples() -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="needs torchmetrics: pip install torchmetrics")
    for made in (
        torchmetric(metrics.iou, threshold=0.8),
        torchmetric(metrics.box_ious, join=metrics.max_box_acc, thresholds=(0.3, 0.6)),
    ):
        made.update(HEATMAPS[:3], BOXES[:3])
        for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), made.clone()):
            assert isinstance(again, torchmetrics.Metric)
            assert torch.equal(again.compute(), made.compute())
            again.update(HEATMAPS[3:], BOXES[3:])
            made.update(HEATMAPS[3:], BOXES[3:])
            assert torch.equal(again.compute(), made.compute())
            made.reset()
            made.update(HEATMAPS[:3], BOXES[:3])


def test_options_that_explainer_does_not_have_are_refused() -> None:
    with pytest.raises(CamfnError, match="explainer has no option 'signd'"):
        quantus_explain(methods.grad_cam, "0", signd=True)
    with pytest.raises(CamfnError, match="explainer has no option 'target'"):
        LayerAttribution(methods.grad_cam, net(), "0", target=1)
    with pytest.raises(CamfnError, match="method"):
        quantus_explain("grad_cam", "0")  # type: ignore[arg-type]


def test_a_copied_attribution_explains_the_copy() -> None:
    attribution = LayerAttribution(methods.grad_cam, net(), "1")
    copied = copy.deepcopy(attribution)
    before = attribution.attribute(IMAGES, CLASSES)
    with torch.no_grad():
        copied.model[0].weight.mul_(-1)  # type: ignore[index]
    assert torch.equal(attribution.attribute(IMAGES, CLASSES), before)
    expected = LayerAttribution(methods.grad_cam, copied.model, "1").attribute(IMAGES, CLASSES)
    assert torch.equal(copied.attribute(IMAGES, CLASSES), expected)
    assert not torch.allclose(expected, before)
    assert attribution.forward_func is attribution.model
    layer_cam = replace(attribution, method=methods.layer_cam)
    assert layer_cam.attribute(IMAGES, 1).shape == before.shape
