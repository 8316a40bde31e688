"""What the JSON says of the machine, for the head of the table."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Add the versions that are compared, the threads, and the GPU."""
    machine_info["versions"] = {name: version(name) for name in ("torch", "torchvision", "grad-cam", "torchcam")}
    machine_info["threads"] = torch.get_num_threads()
    machine_info["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
