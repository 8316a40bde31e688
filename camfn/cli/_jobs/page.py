"""The runs behind `camfn export --page`: the exports that a page offers, and the page."""

# tested in tests/cli/jobs/test_page.py

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from torch import Tensor

from ... import export as camfn_export
from ..._photos.layer import ALL
from ..._shared.errors import UsageError
from ...catalogue import info_of
from ...export._page import is_single
from ...export._runtime import runtime_files
from ...zoo import Loaded
from .export import about_of, batch_of, explained_at, noise_of

STAGES = 4
"""Stages that `camfn.export.onnx` tells of one file."""


class Offer(NamedTuple):
    """A method at a layer, which a page offers.

    Attributes:
        label: in words, as the progress says it.
        explain: the explainer.
    """

    label: str
    explain: Any


def check_page(place: Path, runtime: Path | None) -> None:
    """Refuse a place that a page cannot be written to, or a missing runtime, before any model is loaded."""
    is_single(place)
    runtime_files(runtime)


def check_methods(methods: dict[str, Callable[..., Any]]) -> None:
    """Refuse methods that take neither a layer nor attentions; they explain by many runs, or give no map of a layer.

    Raises:
        UsageError: names the methods.
    """
    others = [name for name, method in methods.items() if info_of(method).kind == "network"]
    if others:
        raise UsageError(f"{', '.join(others)}: of the whole network, which a page does not offer; see: camfn methods")


def page_of(
    place: Path,
    loaded: Loaded,
    methods: dict[str, Callable[..., Any]],
    layers: Sequence[str | None],
    runtime: Path | None,
    progress: Callable[[str, int, int], None],
) -> list[dict[str, Any]]:
    """Export a model by each method at each layer, and write a page of all.

    Args:
        place: of the page.
        loaded: the model.
        methods: by name.
        layers: dotted names, or None for the suggested layer.
        runtime: a folder or a tarball, or None.
        progress: called with what is done in words, the stages that are done, and all stages.

    Returns:
        The facts of each export.
    """
    if loaded.recipe is None:
        raise UsageError(
            f"{loaded.name} prepares photos by code ({loaded.about.get('photos', 'of its own')}), which a page cannot "
            "repeat: give --input-size, --resize, --mean and --std"
        )
    images = noise_of(loaded)
    offers = list(_offers(loaded, methods, layers, images))
    found = []
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{k}.onnx" for k in range(len(offers))]
        for k, (offer, file) in enumerate(zip(offers, files)):
            told = iter(range(STAGES))

            def tell(stage: str, offer: Offer = offer, k: int = k, told: Iterator[int] = told) -> None:
                progress(f"{offer.label}: {stage}", k * STAGES + next(told, STAGES - 1), len(offers) * STAGES)

            about, batch = about_of(loaded), batch_of(loaded)
            found.append(camfn_export.onnx(offer.explain, images, file, batch=batch, progress=tell, **about))
        camfn_export.page(place, files, runtime=runtime)
    return found


def _offers(
    loaded: Loaded, methods: dict[str, Callable[..., Any]], layers: Sequence[str | None], images: Tensor
) -> Iterator[Offer]:
    """Yield each method at each layer; a method on attention once for all layers that are not named."""
    for name, method in methods.items():
        for asked in layers:
            layer, explain = explained_at(loaded, images, method, asked)
            yield Offer(name if layer.name == ALL else f"{name} at {layer.name}", explain)
