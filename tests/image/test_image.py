"""What all functions on maps have in common: types, batches, transforms, devices, imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from camfn import image

from .common import FLOATS, HALVES, rand, randn

PHOTO = rand(3, 8, 12)


PURE: dict[str, Callable[[Tensor], Tensor]] = {
    "upsample": lambda m: image.upsample(m, (9, 14)),
    "normalize": image.normalize,
    "normalize signed": lambda m: image.normalize(m, signed=True),
    "colorize": image.colorize,
    "overlay": lambda m: image.overlay(PHOTO.to(m.dtype).to(m.device), m),
    "to_mask": image.to_mask,
    "peer_postprocess": lambda m: image.peer_postprocess([m, m[:, ::2, ::2]], (9, 14)),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", PURE)
def test_dtypes_are_kept_and_halves_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    maps = rand(3, 5, 7).to(dtype)
    got = PURE[name](maps)
    if name == "to_mask":
        assert got.dtype == torch.bool
        assert torch.equal(got, PURE[name](maps.double()))
        return
    assert got.dtype == dtype
    if dtype in HALVES:
        wide = image.overlay(PHOTO.to(dtype).float(), maps.float()) if name == "overlay" else PURE[name](maps.float())
        assert torch.equal(got, wide.to(dtype))
    torch.testing.assert_close(got.double(), PURE[name](maps.double()), atol=4 * torch.finfo(dtype).eps, rtol=1e-6)


@pytest.mark.parametrize("name", PURE)
def test_a_batch_is_its_samples(name: str) -> None:
    maps = rand(3, 5, 7)
    singles = torch.cat([PURE[name](m[None]) for m in maps])
    torch.testing.assert_close(PURE[name](maps), singles, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", PURE)
def test_inputs_are_not_written_to(name: str) -> None:
    maps = rand(3, 5, 7)
    before = maps.clone()
    PURE[name](maps)
    assert torch.equal(maps, before)


@pytest.mark.parametrize("name", PURE)
def test_vmap_equals_the_loop(name: str) -> None:
    maps = rand(4, 2, 5, 7)
    expected = torch.stack([PURE[name](m) for m in maps])
    torch.testing.assert_close(vmap(PURE[name])(maps), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["upsample", "normalize", "normalize signed", "to_mask", "peer_postprocess"])
def test_no_graph_break(name: str) -> None:
    maps = rand(2, 5, 7)
    compiled = torch.compile(PURE[name], fullgraph=True, backend="eager", dynamic=False)
    assert torch.equal(compiled(maps), PURE[name](maps))


def test_derivatives_under_vmap() -> None:
    maps = randn(4, 2, 5, 7)

    def total(m: Tensor) -> Tensor:
        return (image.normalize(m) ** 2).sum()

    expected = torch.stack([torch.func.grad(total)(m) for m in maps])
    torch.testing.assert_close(vmap(torch.func.grad(total))(maps), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", PURE)
def test_the_device_is_kept(name: str) -> None:
    maps = rand(3, 5, 7)
    got = PURE[name](maps.cuda())
    assert got.is_cuda
    torch.testing.assert_close(got.cpu(), PURE[name](maps), rtol=1e-5, atol=1e-6)
    assert all(boxes.is_cuda for boxes in image.to_boxes(maps.cuda()))
    assert image.montage([rand(3, 8, 8).cuda(), rand(3, 4, 4)], ["a", "b"]).is_cuda


def test_the_import_is_light() -> None:
    heavy = {"kornia", "PIL", "scipy", "matplotlib", "torchvision", "timm"}
    code = f"import sys, camfn.image; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_packages_are_named_with_the_extra_that_brings_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    text = r"pip install 'camfn\[cli\]'"
    with pytest.raises(ImportError, match=f"save needs Pillow: {text}"):
        image.save(torch.zeros(3, 4, 4), tmp_path / "map.png")
    with pytest.raises(ImportError, match=f"captions needs Pillow: {text}"):
        image.montage([torch.zeros(3, 4, 4)], ["a"])
    with pytest.raises(ImportError, match=f"to_boxes needs SciPy: {text}"):
        image.to_boxes(torch.ones(1, 4, 4))
    assert image.montage([torch.zeros(3, 4, 4)]).shape == (3, 20, 20)
