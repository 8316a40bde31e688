"""The recorder as a callback of Lightning and of transformers: the steps, and a training that ends in the same bits."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camfn import tiny
from camfn._shared.errors import MissingPackageError
from camfn.training import MapRecorder

WORLD = tiny.scenes(12, digits=1, generator=torch.Generator().manual_seed(1))
DIGITS = WORLD.labels[:, 0]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
    ).append(nn.Linear(8, 10))


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def by_lightning(recorder: MapRecorder | None, folder: Path, **options: Any) -> nn.Module:
    from lightning import pytorch as lightning

    class Task(lightning.LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-2)

    task = Task()
    data = torch.utils.data.TensorDataset(WORLD.images, DIGITS)
    loader = torch.utils.data.DataLoader(data, 4, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[recorder.lightning()] if recorder else [],
        **options,
    )
    torch.manual_seed(1)
    trainer.fit(task, loader)
    return task.net


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("options", "steps"), [({}, [0, 2, 4, 6]), ({"accumulate_grad_batches": 3}, [0, 2])])
def test_lightning(options: dict[str, Any], steps: list[int], tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs lightning")
    recorder = MapRecorder(WORLD.images[:2], "0", target=DIGITS[:2], every=2, out=tmp_path / "maps", of=lambda x: x.net)  # type: ignore[arg-type, return-value]
    with_it = by_lightning(recorder, tmp_path, **options)
    assert same(with_it, by_lightning(None, tmp_path, **options))
    assert not same(with_it, net())
    assert [record.step for record in recorder.records[::2]] == steps


@pytest.mark.filterwarnings("ignore")
def test_lightning_with_two_optimizers(tmp_path: Path) -> None:
    """The global step counts the steps of both; the second batch is at 2, the third at 4."""
    pytest.importorskip("lightning", reason="needs lightning")
    from lightning import pytorch as lightning

    class Task(lightning.LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.automatic_optimization = net(), False

        def training_step(self, batch: list[Tensor], _: int) -> None:
            for optimizer in self.optimizers():
                loss = functional.cross_entropy(self.net(batch[0]), batch[1])
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

        def configure_optimizers(self) -> Any:
            first, *_, last = self.net.children()
            return [torch.optim.SGD(part.parameters(), 1e-2) for part in (first, last)]

    def trained(*callbacks: Any) -> nn.Module:
        task = Task()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            default_root_dir=tmp_path,
            enable_model_summary=False,
            callbacks=list(callbacks),
            **quiet,
        )
        data = torch.utils.data.TensorDataset(WORLD.images, DIGITS)
        torch.manual_seed(1)
        trainer.fit(task, torch.utils.data.DataLoader(data, 4))
        return task.net

    recorder = MapRecorder(WORLD.images[:2], "0", target=DIGITS[:2], every=3, of=lambda x: x.net)  # type: ignore[arg-type, return-value]
    assert same(trained(recorder.lightning()), trained())
    # 3 lies between 2 and 4, and 6 is there
    assert [record.step for record in recorder.records[::2]] == [0, 4, 6]


def by_transformers(recorder: MapRecorder | None, folder: Path) -> nn.Module:
    import transformers

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
            logits = self.net(pixel_values)
            loss = None if labels is None else functional.cross_entropy(logits, labels)
            return transformers.modeling_outputs.ImageClassifierOutput(loss=loss, logits=logits)

    data = [{"pixel_values": x, "labels": int(y)} for x, y in zip(WORLD.images, DIGITS, strict=True)]
    settings = transformers.TrainingArguments(
        str(folder), num_train_epochs=2, per_device_train_batch_size=4, report_to=[], save_strategy="no", use_cpu=True
    )
    model = Model()
    trainer = transformers.Trainer(
        model,
        settings,
        train_dataset=data,
        callbacks=[recorder.hugging_face()] if recorder else [],
    )
    trainer.train()
    return model


@pytest.mark.filterwarnings("ignore")
def test_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs transformers: pip install 'camfn[hf]'")
    pytest.importorskip("accelerate", reason="needs accelerate, which Trainer asks for")
    recorder = MapRecorder(WORLD.images[:2], "net.0", target=DIGITS[:2], every=2, out=tmp_path / "maps")
    with_it = by_transformers(recorder, tmp_path)
    assert same(with_it, by_transformers(None, tmp_path))
    assert [record.step for record in recorder.records[::2]] == [0, 2, 4, 6]
    assert (tmp_path / "maps" / "photo-1.png").is_file()


@pytest.mark.parametrize(("name", "package"), [("lightning", "lightning"), ("hugging_face", "transformers")])
def test_a_missing_package_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    hidden = ("lightning", "pytorch_lightning", "transformers")
    monkeypatch.setattr("camfn.training._callbacks.find_spec", lambda name: None if name in hidden else find(name))
    with pytest.raises(MissingPackageError, match=f"MapRecorder.{name} needs {package}: pip install"):
        getattr(MapRecorder(WORLD.images, "0"), name)()


def test_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MapRecorder(WORLD.images, "0", target=DIGITS)(net(), 0)
