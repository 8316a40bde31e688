"""The linear head that the original CAM needs: its rows, and the check that a map agrees with the logits."""

# tested in tests/cli/test_cli.py

from __future__ import annotations

from torch import Tensor, nn

from .._shared.errors import UsageError
from .layer import Layer


def head_rows(model: nn.Module, layer: Layer, target: Tensor) -> Tensor:
    """Return the rows of the last linear layer that belong to the classes in `target`."""
    head = _last_linear(model, layer)
    if int(target.max()) >= head.out_features or head.in_features != layer.channels:
        raise UsageError(_no_cam(layer, f"the last linear layer is {head.in_features} to {head.out_features}"))
    return head.weight.detach()[target]


def check_cam(model: nn.Module, layer: Layer, cam: Tensor, target: Tensor, logits: Tensor) -> None:
    """Check the law of the original CAM: the mean of the map plus the bias is the logit.

    Raises:
        UsageError: the law does not hold, because the model computes something else between the layer and the logits.
    """
    bias = _last_linear(model, layer).bias
    given = logits.gather(1, target[:, None])[:, 0]
    mean = cam.float().flatten(1).mean(1) + (0 if bias is None else bias.detach()[target])
    far = (mean - given).abs() > 1e-3 * logits.abs().amax(1)
    if far.any():
        i = int(far.nonzero()[0])
        raise UsageError(_no_cam(layer, f"the map's mean and the bias make {mean[i]:.4g}, the logit is {given[i]:.4g}"))


def _last_linear(model: nn.Module, layer: Layer) -> nn.Linear:
    """Return the last linear layer of a model."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UsageError(_no_cam(layer, "there is no linear layer"))
    return linear[-1]


def _no_cam(layer: Layer, reason: str) -> str:
    """Write the message that the original CAM is not defined at a layer."""
    return (
        f"cam needs global pooling followed by one linear layer right after the chosen layer, {layer.name!r}; here "
        f"{reason}. grad_cam works everywhere: --method grad_cam"
    )
