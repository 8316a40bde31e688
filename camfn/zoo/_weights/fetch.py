"""Errors of weights that cannot be fetched, and of libraries that are not installed."""

# tested in tests/zoo/load/test_load.py

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlparse

import torch

from ..._shared.errors import LoadError
from ..._shared.optional import extra

INSTEAD = "give a local state dict with --weights PATH, or take random weights with --weights none"


def library(name: str, *, extra_name: str = "cli") -> Any:
    """Import the library that a model comes from.

    Raises:
        LoadError: it is not installed.
    """
    with extra(name, "this model", name=extra_name, error=LoadError):
        return import_module(name)


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
    except ImportError as error:
        raise LoadError(f"{model} needs a package that is not installed: {reason(error)}") from error
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
