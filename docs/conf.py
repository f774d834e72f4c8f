"""Sphinx configuration; build with ``make docs``."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
# Compiled functions are not functions to autodoc; uncompiled they are, with signature and docstring.
os.environ["NUMBA_DISABLE_JIT"] = "1"

project = "sb3_ezv2"
author = "The sb3_ezv2 authors"
copyright = f"2026, {author}"
release = (ROOT / "sb3_ezv2" / "version.txt").read_text().strip()
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "formulas", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
templates_path = []

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"sb3_ezv2 {release}"
html_show_sourcelink = False
html_math_renderer = "svg"
html_static_path = ["_static"]
html_css_files = ["page.css"]


def skip_member(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples, which the signature shows already."""
    return True if type(obj).__name__ == "_tuplegetter" else skip


def setup(app):
    app.connect("autodoc-skip-member", skip_member)
