"""The notebooks of the site's examples run, and show a picture."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))


def settings() -> dict[str, Any]:
    """What docs/conf.py says of the gallery, with the gallery's defaults."""
    from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF

    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    return {**DEFAULT_GALLERY_CONF, **conf.sphinx_gallery_conf}


def notebook(path: Path) -> dict[str, Any]:
    """Make the notebook of an example, as `make docs` does for its download button."""
    from sphinx_gallery.notebook import jupyter_notebook
    from sphinx_gallery.py_source_parser import split_code_and_text_blocks

    made: dict[str, Any] = jupyter_notebook(split_code_and_text_blocks(str(path))[1], settings(), str(path.parent))
    return made


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_its_picture(path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    pytest.importorskip("ipykernel")
    nbformat: Any = pytest.importorskip("nbformat")
    made = nbformat.reads(json.dumps(notebook(path)), as_version=4)
    assert "camfn[demo]" in made.cells[0].source
    where = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(made, timeout=600, kernel_name="python3", resources=where).execute()
    shown = [output for cell in made.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown), "no picture"
