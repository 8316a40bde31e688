"""A `MapRecorder` in the form of the callbacks of Lightning and of transformers."""

# tested in tests/training/test_callbacks.py

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from .._shared.errors import MissingPackageError

Recorder = Callable[[Any, int], Any]
"""Called with a model and a step."""


def lightning_callback(recorder: Recorder) -> Any:
    """Return a Lightning callback that records at the start, and after batches by the trainer's global step."""
    if find_spec("lightning") is not None:
        from lightning.pytorch import Callback
    elif find_spec("pytorch_lightning") is not None:
        from pytorch_lightning import Callback
    else:
        raise MissingPackageError("MapRecorder.lightning needs lightning: pip install lightning")

    class Maps(Callback):  # type: ignore[misc, valid-type, unused-ignore]
        """Maps of fixed photos."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Record the network before its first step."""
            recorder(pl_module, trainer.global_step)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
            """Record if a step is due."""
            recorder(pl_module, trainer.global_step)

    return Maps()


def hugging_face_callback(recorder: Recorder) -> Any:
    """Return a callback of transformers that records at the start, and after steps."""
    if find_spec("transformers") is None:
        raise MissingPackageError("MapRecorder.hugging_face needs transformers: pip install 'camfn[hf]'")
    from transformers import TrainerCallback

    class Maps(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Maps of fixed photos."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Record the network before its first step."""
            recorder(given["model"], state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Record if a step is due."""
            recorder(given["model"], state.global_step)

    return Maps()
