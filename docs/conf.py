"""Sphinx settings. ``make docs`` builds the site into ``site/`` and treats warnings as errors.

Neither the build nor a page downloads anything: the theme includes its scripts, and pages use the
fonts of the reader's system.
"""

import os
import re

os.environ["JAX_PLATFORMS"] = "cpu"  # the examples are small and need no GPU

import jax
import jax.numpy as jnp
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import noria

project = "Noria"
author = "The Noria developers"
copyright = author
version = release = noria.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["img"]
nitpicky = True  # warn about a name in `single backticks` that is not a public name
nitpick_ignore_regex = [  # names of other libraries; their inventories would need a download
    (
        "py:.*",
        r"(jax|jaxlib|jaxtyping|jnp|np|numpy|optax|equinox|eqx|matplotlib|torch|pandas)(\..*)?",
    ),
    ("py:.*", r"(collections\.abc|typing|os|builtins)\..*"),
    ("py:obj", r"(NamedTuple|KeyboardInterrupt|RuntimeWarning|None|True|False)"),
]

# Docstrings are reStructuredText with Google section names; `name` refers to a public name.
default_role = "py:obj"
highlight_language = (
    "text"  # equations; examples begin with >>> and are highlighted as Python anyway
)
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and dtypes; editors show types
napoleon_custom_sections = ["Shapes", ("Attributes", "params_style")]
napoleon_use_rtype = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
# CONTRIBUTING.md and CHANGELOG.md have links for the repository; see contributing.md.
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = f"Noria {release}"
html_static_path = ["_static"]
html_favicon = html_logo = "_static/noria.svg"
html_css_files = ["noria.css"]
html_domain_indices = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}


def without_addresses(*arguments: object) -> tuple[str, str] | None:
    """The signature of a public name, with the names of functions among its defaults."""
    signature, result = arguments[5:]
    if not isinstance(signature, str):
        return None
    return re.sub(r"<(?:Pjit)?[Ff]unction (?:of <function )?(\w+)[^>]*>+", r"\1", signature), str(
        result or ""
    )


class Display(SphinxDirective):
    """A directive that shows the value of an expression as a notebook does."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        value = eval(self.arguments[0], {"jax": jax, "jnp": jnp, "nr": noria})
        return [nodes.raw("", value._repr_html_(), format="html")]


def setup(app: Sphinx) -> None:
    app.add_directive("display", Display)
    app.connect("autodoc-process-signature", without_addresses)
