"""The settings of a GPU while the suite measures, and after."""

from __future__ import annotations

import pytest
import torch

from camfn.evaluate._suite.exact import exact


def settings() -> tuple[bool, bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("chosen", [False, True])
def test_the_settings_hold_inside_and_come_back_after_an_error(chosen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", chosen)
    before = settings()

    def failing() -> None:
        with exact():
            assert settings() == (False, True, False, False)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert settings() == before
    assert before[2] == chosen
