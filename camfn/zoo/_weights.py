"""State dicts from local files, and the errors of weights that cannot be read or fetched."""

# tested in tests/zoo/test_load.py

from __future__ import annotations

import os
import pickle
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from .._shared.errors import LoadError
from .._shared.optional import extra

INSTEAD = "give a local state dict with --weights PATH, or take random weights with --weights none"


def library(name: str, *, extra_name: str = "cli") -> Any:
    """Import the library that a model comes from.

    Raises:
        LoadError: it is not installed.
    """
    with extra(name, "this model", name=extra_name, error=LoadError):
        return import_module(name)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict: tensors by name, no code (`weights_only=True`).

    Args:
        path: a .safetensors file, or a file of `torch.save`. A checkpoint may hold the state dict under "state_dict"
            or "model", and its names may begin with the "module." of a data-parallel wrapper.

    Raises:
        LoadError: no such file, or not a state dict.
    """
    file = Path(path)
    if not file.is_file():
        raise LoadError(f"no weights at {os.fspath(path)}: {INSTEAD}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LoadError(
            f"{file} holds more than tensors, or no tensors: save model.state_dict() and give that"
        ) from error
    except Exception as error:
        # safetensors and torch.load each have errors of their own for a damaged file
        raise LoadError(f"cannot read the weights {file}: {reason(error)}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise LoadError(f"{file} is not a state dict: save model.state_dict() and give that")
    wrapped = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module."): value for key, value in content.items()} if wrapped else content


def fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        LoadError: counts the names that are missing, unexpected, or of another shape, with an example of each.
    """
    own = model.state_dict()
    reshaped = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if reshaped:
        missing, unexpected = [key for key in own if key not in state], [key for key in state if key not in own]
    else:
        if not hasattr(state, "_metadata"):
            # versions of the modules, which safetensors does not keep and MNASNet insists on
            state = OrderedDict(state)
            state._metadata = own._metadata  # type: ignore[attr-defined]
        missing, unexpected = model.load_state_dict(state, strict=False)
        # older than torch 0.4.1; only training reads it
        missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    misfits = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(misfits.values()):
        counts = ", ".join(f"{len(keys)} {what} (as {keys[0]})" for what, keys in misfits.items() if keys)
        raise LoadError(f"the weights {source} do not fit this {type(model).__name__}: {counts}")


def reachable(model: str, url: str | None, instead: str = INSTEAD) -> None:
    """Check that the weights' server answers, so that without network the error comes in seconds.

    The hub's client tries for a minute, and warns on each try.
    """
    if url is None or _is_cached(url):
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except HTTPError:
        return  # the server answers; the library reports why the server refuses the file
    except OSError as error:
        raise LoadError(f"cannot fetch the weights of {model} ({reason(error)}): {instead}") from error


@contextmanager
def fetching(model: str, instead: str = INSTEAD) -> Iterator[None]:
    """Turn any error of a library that fetches its own weights into a `LoadError` of one line."""
    try:
        yield
    except Exception as error:
        # urllib, httpx, huggingface_hub, timm and torch.hub share no base class
        raise LoadError(f"cannot fetch the weights of {model} ({reason(error)}): {instead}") from error


def source_of(config: Any) -> str | None:
    """Return the address that timm will fetch a `PretrainedCfg`'s weights from; None if they are on this machine."""
    if not config.hf_hub_id:
        return str(config.url)
    from huggingface_hub import constants, try_to_load_from_cache

    repository, _, revision = config.hf_hub_id.partition("@")
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    held = [try_to_load_from_cache(repository, name, revision=revision or None) for name in names]
    if any(isinstance(path, str) for path in held) or constants.HF_HUB_OFFLINE:
        return None
    return str(constants.ENDPOINT)


def reason(error: BaseException) -> str:
    """Return the reason of an error in a few words: that of the system, or the first line of the error's own text."""
    words = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    if isinstance(words, OSError) and words is not error:
        return reason(words)
    lines = str(words).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_cached(url: str) -> bool:
    """Say whether torch.hub has downloaded this file before."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name).is_file()
