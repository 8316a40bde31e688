"""Export: the map inside of the exported model, as a program, an ONNX file or a compiled package."""

from ._onnx import onnx as onnx
from ._page import page as page
from ._program import program as program
from ._runtime import fetch_runtime as fetch_runtime

__all__ = ["fetch_runtime", "onnx", "page", "program"]
