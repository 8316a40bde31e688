"""The catalogue of methods: what each one is called, what it needs and what it gives.

The command line, `camfn.evaluate`, the tests and the documentation read `METHODS`. A new method gets its row here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from typing import Any, Literal, NamedTuple

from . import attention, methods, network
from ._cut.signature import read_signature
from ._shared.errors import CamfnError
from ._shared.spelling import near

Kind = Literal["layer", "attention", "network"]
Need = Literal["attention", "forward", "gradients", "head", "inputs", "layer", "model", "tail"]


class MethodInfo(NamedTuple):
    """One row of the catalogue.

    Attributes:
        name: the name of the function.
        function: the method itself.
        kind: "layer" for a function of a layer's activations, which `camfn.explainer` composes with a model;
            "attention" for a function of attention records, which `camfn.attention.attention_explainer` composes with a
            model; "network" for a function that takes the model and returns an explainer.
        gives: "map" for one value a position, (B, *S); "picture" for a result with the channels of the image.
        needs: what the method cannot do without. "gradients": the gradient of the score. "tail": the rest of the
            network behind the layer. "forward": the whole network, with the inputs. "inputs": the inputs, without the
            network. "head": the rows of the model's linear head. "attention": attention records. "model": the model
            itself. "layer": the name of a layer, for a method of a whole network.
        draws: whether the method takes a random generator.
    """

    name: str
    function: Callable[..., Any]
    kind: Kind
    gives: Literal["map", "picture"]
    needs: frozenset[Need]
    draws: bool = False

    @property
    def takes_layer(self) -> bool:
        """Whether a user may name the layer, or the attention, at which the method explains."""
        return self.kind != "network" or "layer" in self.needs

    @property
    def perturbs(self) -> bool:
        """Whether the method runs the network, or its tail, again on changed values, or reads the inputs."""
        return not self.needs.isdisjoint({"tail", "forward", "inputs"})

    @property
    def explains_class(self) -> bool:
        """Whether the map depends on the target; others read activations or attention alone."""
        return not self.needs.isdisjoint({"gradients", "tail", "forward", "head", "model"})


METHODS: tuple[MethodInfo, ...] = (
    MethodInfo("cam", methods.cam, "layer", "map", frozenset({"head"})),
    MethodInfo("tam", methods.tam, "layer", "map", frozenset({"head"})),
    MethodInfo("grad_cam", methods.grad_cam, "layer", "map", frozenset({"gradients"})),
    MethodInfo("hires_cam", methods.hires_cam, "layer", "map", frozenset({"gradients"})),
    MethodInfo("elementwise_grad_cam", methods.elementwise_grad_cam, "layer", "map", frozenset({"gradients"})),
    MethodInfo("grad_cam_plusplus", methods.grad_cam_plusplus, "layer", "map", frozenset({"gradients"})),
    MethodInfo("xgrad_cam", methods.xgrad_cam, "layer", "map", frozenset({"gradients"})),
    MethodInfo("layer_cam", methods.layer_cam, "layer", "map", frozenset({"gradients"})),
    MethodInfo("odam", methods.odam, "layer", "map", frozenset({"gradients"})),
    MethodInfo("seg_xres_cam", methods.seg_xres_cam, "layer", "map", frozenset({"gradients"})),
    MethodInfo("bag_cam", methods.bag_cam, "layer", "map", frozenset({"gradients"})),
    MethodInfo("eigen_cam", methods.eigen_cam, "layer", "map", frozenset()),
    MethodInfo("eigen_grad_cam", methods.eigen_grad_cam, "layer", "map", frozenset({"gradients"})),
    MethodInfo("seg_eigen_cam", methods.seg_eigen_cam, "layer", "map", frozenset({"gradients"})),
    MethodInfo("kpca_cam", methods.kpca_cam, "layer", "map", frozenset()),
    MethodInfo("fem", methods.fem, "layer", "map", frozenset()),
    MethodInfo("random_cam", methods.random_cam, "layer", "map", frozenset(), draws=True),
    MethodInfo("ablation_cam", methods.ablation_cam, "layer", "map", frozenset({"tail"})),
    MethodInfo("score_cam", methods.score_cam, "layer", "map", frozenset({"forward"})),
    MethodInfo("recipro_cam", methods.recipro_cam, "layer", "map", frozenset({"tail"})),
    MethodInfo("lift_cam", methods.lift_cam, "layer", "map", frozenset({"tail"})),
    MethodInfo("shapley_cam", methods.shapley_cam, "layer", "map", frozenset({"tail"})),
    MethodInfo("fd_cam", methods.fd_cam, "layer", "map", frozenset({"gradients", "tail"})),
    MethodInfo("group_cam", methods.group_cam, "layer", "map", frozenset({"forward", "gradients"})),
    MethodInfo("ss_cam", methods.ss_cam, "layer", "map", frozenset({"forward"}), draws=True),
    MethodInfo("is_cam", methods.is_cam, "layer", "map", frozenset({"forward"})),
    MethodInfo("poly_cam", methods.poly_cam, "layer", "map", frozenset({"forward"})),
    MethodInfo("opti_cam", methods.opti_cam, "layer", "map", frozenset({"forward"})),
    MethodInfo("vit_cx", methods.vit_cx, "layer", "map", frozenset({"forward"}), draws=True),
    MethodInfo("rise", methods.rise, "layer", "map", frozenset({"forward"}), draws=True),
    MethodInfo("d_rise", methods.d_rise, "layer", "map", frozenset({"forward"}), draws=True),
    MethodInfo("sobol", methods.sobol, "layer", "map", frozenset({"forward"})),
    MethodInfo("hsic", methods.hsic, "layer", "map", frozenset({"forward"}), draws=True),
    MethodInfo("region_search", methods.region_search, "layer", "map", frozenset({"forward"})),
    MethodInfo("occlusion", methods.occlusion, "layer", "map", frozenset({"forward"})),
    MethodInfo("sobel_edges", methods.sobel_edges, "layer", "map", frozenset({"inputs"})),
    MethodInfo("raw_attention", attention.raw_attention, "attention", "map", frozenset({"attention"})),
    MethodInfo("attention_rollout", attention.attention_rollout, "attention", "map", frozenset({"attention"})),
    MethodInfo(
        "gradient_rollout", attention.gradient_rollout, "attention", "map", frozenset({"attention", "gradients"})
    ),
    MethodInfo("le_grad", attention.le_grad, "attention", "map", frozenset({"attention", "gradients"})),
    MethodInfo("grad_eclip", attention.grad_eclip, "attention", "map", frozenset({"attention", "gradients"})),
    MethodInfo("full_grad", network.full_grad, "network", "map", frozenset({"gradients", "model"})),
    MethodInfo("simple_full_grad", network.simple_full_grad, "network", "map", frozenset({"gradients", "model"})),
    MethodInfo(
        "smooth_full_grad", network.smooth_full_grad, "network", "map", frozenset({"gradients", "model"}), draws=True
    ),
    MethodInfo(
        "smooth_grad_cam_plusplus",
        network.smooth_grad_cam_plusplus,
        "network",
        "map",
        frozenset({"gradients", "layer", "model"}),
        draws=True,
    ),
    MethodInfo("input_gradient", network.input_gradient, "network", "picture", frozenset({"gradients", "model"})),
    MethodInfo("smooth_grad", network.smooth_grad, "network", "picture", frozenset({"gradients", "model"}), draws=True),
    MethodInfo(
        "integrated_gradients", network.integrated_gradients, "network", "picture", frozenset({"gradients", "model"})
    ),
    MethodInfo("idgi", network.idgi, "network", "picture", frozenset({"gradients", "model"})),
    MethodInfo("guided_ig", network.guided_ig, "network", "picture", frozenset({"gradients", "model"})),
    MethodInfo(
        "expected_gradients",
        network.expected_gradients,
        "network",
        "picture",
        frozenset({"gradients", "model"}),
        draws=True,
    ),
    MethodInfo("guided_backprop", network.guided_backprop, "network", "picture", frozenset({"gradients", "model"})),
    MethodInfo("deconvnet", network.deconvnet, "network", "picture", frozenset({"gradients", "model"})),
    MethodInfo(
        "guided_grad_cam", network.guided_grad_cam, "network", "picture", frozenset({"gradients", "layer", "model"})
    ),
)
"""All methods: those on a layer, then those on attention, then those of a whole network, maps ahead of pictures."""


def find(name: str) -> MethodInfo:
    """Find a method by its name.

    Args:
        name: as in the catalogue.

    Returns:
        The row of the method.

    Raises:
        CamfnError: no method has this name.

    Example:
        >>> find("rise").kind, sorted(find("rise").needs), find("rise").draws
        ('layer', ['forward'], True)
    """
    for row in METHODS:
        if row.name == name:
            return row
    raise CamfnError(f"no method {name!r}. {near(name, [row.name for row in METHODS])}")


def info_of(function: Callable[..., Any]) -> MethodInfo:
    """Find the row of a function, which may have options bound by `functools.partial`, or make one of its signature.

    A function of yours is a method on a layer, `(activations, grads, outputs)`, as `camfn.explainer` reads it; on
    attention where its first parameter is called `records`; of a whole network where it is called `model`.

    Args:
        function: a method of the catalogue, a function of yours, or a `functools.partial` of one.

    Returns:
        The row of the method.

    Raises:
        CamfnError: the function is no method: its signature cannot be read, or requires what nothing binds.

    Example:
        >>> info_of(partial(methods.score_cam, top_k=0.1)).name
        'score_cam'
        >>> def mine(activations, grads, outputs=None, *, tail): ...
        >>> sorted(info_of(mine).needs)
        ['gradients', 'tail']
    """
    plain: Any = function
    while isinstance(plain, partial):
        plain = plain.func
    for row in METHODS:
        if row.function is plain:
            return row
    return _read(function, plain)


_OF_FIRST: dict[str, tuple[Kind, frozenset[Need]]] = {
    "records": ("attention", frozenset({"attention", "gradients"})),
    "model": ("network", frozenset({"gradients", "model"})),
}
"""Kind and needs of a function by the name of its first parameter; of any other name it is a method on a layer."""


def _read(function: Callable[..., Any], plain: Any) -> MethodInfo:
    """Make a row for a function that is not in the catalogue; `plain` is the function without bound options."""
    name = getattr(plain, "__name__", type(plain).__name__)
    given = partial(function, generator=None) if _draws(plain) else function
    try:
        parameters = list(signature(function).parameters)
    except (TypeError, ValueError):
        parameters = []
    first = parameters[0] if parameters else ""
    if first in _OF_FIRST:
        kind, needs = _OF_FIRST[first]
        needs |= {"layer"} if kind == "network" and "layer" in parameters else set()
        return MethodInfo(name, plain, kind, "map", needs, _draws(plain))
    read = read_signature(given)
    words: dict[str, Need] = {"tail": "tail", "forward": "forward", "inputs": "forward", "weights": "head"}
    asked: set[Need] = {words[key] for key in read.context if key in words}
    asked |= {"gradients"} if read.gradients else set()
    return MethodInfo(name, plain, "layer", "map", frozenset(asked), _draws(plain))


def _draws(function: Callable[..., Any]) -> bool:
    """Whether a function has a keyword `generator`."""
    try:
        found = signature(function).parameters.get("generator")
    except (TypeError, ValueError):
        return False
    return found is not None and found.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
