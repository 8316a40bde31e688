"""Exported programs (.pt2 of `torch.export.save`) as modules that can be cut, read without running a pickle."""

# tested in tests/zoo/libraries/test_own.py

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._shared.errors import LoadError
from .fetch import reason

_SYMBOL = re.compile(r"[suz]\d+|true|false|oo|int_oo")
_FUNCTION = re.compile(
    r"Symbol|Integer|Rational|Float|Add|Mul|Pow|Mod|Max|Min|Abs|floor|ceiling|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Piecewise"
    r"|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt|RoundToInt|RoundDecimal|TruncToInt|TruncToFloat|ToFloat|PythonMod"
    r"|ModularIndexing|IntTrueDiv|FloatTrueDiv|FloatPow|PowByNatural|Identity|Where|BitwiseFn_\w+"
)
_OPERATORS = re.compile(
    r"torch\.ops\.[\w.]+|torch\._?sym_\w+|math\.\w+|#\S+|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs"
    r"|eq|ne|lt|le|gt|ge|and_|or_|not_|xor|lshift|rshift|getitem)|"
)
_ALLOWED = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Compare,
    ast.BoolOp, ast.Tuple, ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
)  # fmt: skip
_AGAIN = "export it anew: torch.export.save(torch.export.export(model.eval(), (inputs,)), 'model.pt2')"


def load_program(path: Path) -> tuple[nn.Module, tuple[int | None, ...]]:
    """Load an exported program as a module with the names of the network that was exported.

    Returns:
        The module, and the shape of its input, where None stands for any length.

    Raises:
        LoadError: no exported program, one that holds code or pickled objects, one in training mode, or one that takes
            another input than one batch of images.
    """
    try:
        refuse_code(path)
        program = torch.export.load(str(path))
        network = torch.export.unflatten(program)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"cannot read the exported program {path} ({reason(error)}): {_AGAIN}") from error
    _refuse_training(path, program)
    shapes = [_shape(node) for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(shapes) != 1 or shapes[0] is None or len(shapes[0]) < 3:
        raise LoadError(f"{path} takes {len(shapes)} inputs, expected one batch of images, (B, C, H, W)")
    return network, shapes[0]


def _shape(node: Any) -> tuple[int | None, ...] | None:
    """Return the shape of an input of a graph."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    return tuple(length if isinstance(length, int) else None for length in value.shape)


def _refuse_training(path: Path, program: Any) -> None:
    """Refuse a program in which dropout draws, or BatchNorm takes the batch's statistics."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        given = {argument.name: value for argument, value in zip(schema.arguments, node.args)} | node.kwargs
        if (given.get("train") or given.get("training")) is True:
            raise LoadError(f"{path} was exported in training mode ({node.target}): {_AGAIN}")


def refuse_code(path: Path) -> None:
    """Refuse what torch.export.load would run: pickled objects, libraries, and text that is no arithmetic.

    Raises:
        LoadError: names the part of the archive.
    """
    if not zipfile.is_zipfile(path):
        raise LoadError(f"{path} is no exported program: {_AGAIN}")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if "aotinductor" in name or "custom_obj" in name or name.endswith((".so", ".dll", ".dylib", ".cubin")):
                raise LoadError(f"{path} holds compiled code or objects ({name}), which is not run: {_AGAIN}")
            content = archive.read(name)
            if content[:2] in (b"PK", b"\x80\x02") and not name.endswith(".json"):
                _refuse_objects(path, name, content)
            elif name.endswith("json"):
                _refuse_text(path, name, content)


def _refuse_objects(path: Path, name: str, content: bytes) -> None:
    """Refuse a member that torch.load can read only by running code; torch.export.load would run it."""
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise LoadError(f"{path} holds pickled objects ({name}), which are not run: {_AGAIN}") from error


def _refuse_text(path: Path, name: str, content: bytes) -> None:
    """Refuse shapes that are no arithmetic, which sympy evaluates as Python, and calls of anything but operators."""
    for kind, text in _texts(json.loads(content)):
        known = _is_arithmetic(text) if kind != "target" else _OPERATORS.fullmatch(text) is not None
        if not known:
            what = "calls what is no operator" if kind == "target" else "has a shape that is no arithmetic"
            raise LoadError(f"{path} {what} ({name}: {text[:40]!r}): {_AGAIN}")


def _is_arithmetic(text: str) -> bool:
    """Say whether a text is arithmetic of numbers and symbols alone."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    names = {id(node.func): node.func for node in nodes if isinstance(node, ast.Call)}
    symbols = {id(node.args[0]) for node in nodes if isinstance(node, ast.Call) and node.args and _is_symbol(node)}
    for node in nodes:
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and _FUNCTION.fullmatch(node.func.id)):
            return False
        if isinstance(node, ast.Name) and id(node) not in names and not _SYMBOL.fullmatch(node.id):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in symbols or not _SYMBOL.fullmatch(node.value):
                return False
        elif not isinstance(node, _ALLOWED):
            return False
    return True


def _is_symbol(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "Symbol"


def _texts(content: Any) -> Iterator[tuple[str, str]]:
    """Yield the texts of all expressions and the names of all operators in a nested structure, with their kind."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ("expr_str", "as_expr", "target") and isinstance(value, str):
                yield key, value
            else:
                yield from _texts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value)
