"""Export: the map inside of the exported model, as a program, an ONNX file or a compiled package."""

from ._onnx import onnx as onnx
from ._program import program as program

__all__ = ["onnx", "program"]
