"""Export: the map inside of the exported model, as a program, an ONNX file, a compiled package or a web page."""

from ._aot import aot as aot
from ._file import Deployed as Deployed
from ._file import load as load
from ._onnx import onnx as onnx
from ._page import page as page
from ._program import program as program
from ._runtime import fetch_runtime as fetch_runtime

__all__ = ["Deployed", "aot", "fetch_runtime", "load", "onnx", "page", "program"]
