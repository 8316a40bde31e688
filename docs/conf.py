"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the pages are built by two processes
# torch and its neighbors warn about themselves on import, where an example's output would show it
warnings.filterwarnings("ignore", "`torch.jit.")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import camfn_site  # noqa: E402
import usage  # noqa: E402

project = "camfn"
author = "camfn contributors"
copyright = author  # noqa: A001  the name that Sphinx reads
release = version = camfn_site.version()

extensions = [
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "camfn_site",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "_static", "_templates"]
default_role = "code"
# the modules import names of typing, which are then found in several places
suppress_warnings = ["ref.python"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
myst_links_external_new_tab = True

autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_context = {"public": camfn_site.public_names(), "uses": usage.uses()}
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "howto",
    "filename_pattern": "/plot_",
    "ignore_pattern": "^(?!plot_)",  # programs that answer no question
    "within_subsection_order": "FileNameSortKey",
    "doc_module": ("camfn",),
    "reference_url": {"camfn": None},
    "backreferences_dir": "reference/examples",
    "capture_repr": ("_repr_html_", "__repr__"),
    "image_scrapers": ("matplotlib", "camfn_site.pictures"),
    "abort_on_example_error": True,
    "show_memory": False,
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "remove_config_comments": True,
    "thumbnail_size": (320, 320),
    "first_notebook_cell": "# where camfn is not installed yet: %pip install 'camfn[demo]'",
}

html_theme = "pydata_sphinx_theme"
html_title = "camfn"
html_static_path = ["_static"]
html_css_files = ["camfn.css"]
html_js_files = ["versions.js"]
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    "navbar_align": "left",
    "navigation_with_keys": True,
    "show_toc_level": 2,
    "header_links_before_dropdown": 8,
    "navbar_end": ["versions", "theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
# no pages lie below these
html_sidebars: dict[str, list[str]] = {
    name: [] for name in ("index", "concepts", "evaluation", "suite", "suite-tables", "training", "first")
}
