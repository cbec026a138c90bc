"""How Sphinx builds the documentation: `sphinx-build docs build/docs`."""

import ast
import dataclasses
import inspect
import pathlib
import re
import sys
import typing

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# jaxtyping then shows `Float[Array, "b n d"]` as it is written, without the modules of the names.
typing.GENERATING_DOCUMENTATION = "vit_jax"  # type: ignore[attr-defined]

from sphinx.application import Sphinx  # noqa: E402

from vit_jax import __version__  # noqa: E402
from vit_jax.settings import choices  # noqa: E402

project = "vit_jax"
author = "The vit_jax authors"
copyright = "the vit_jax authors, Apache 2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nitpicky = False  # annotations name classes of jax, flax and numpy, which have no pages here
html_theme = "furo"
html_title = f"vit_jax {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
pygments_style = "default"
pygments_dark_style = "github-dark"

myst_enable_extensions = ["dollarmath"]
smartquotes_action = "D"  # dashes only; flags stand in backquotes, which it leaves alone
myst_heading_anchors = 4
copybutton_prompt_text = r"^\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False
default_role = "code"  # docstrings write `name` for code
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

# Files of the repository that are pages of the site too, and the folder that their links start in.
FILES = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security.md",
}


def _read_file(app: Sphinx, page: str, source: list[str]) -> None:
    """Take the text of a file outside of docs/, and lead links to such files to their pages."""
    of_page = {target.removesuffix(".md"): file for file, target in FILES.items()}
    if page in of_page:
        text = (ROOT / of_page[page]).read_text()
        text = re.sub(r"(\]\(|src=\")docs/", r"\1../", text)
        for file, target in FILES.items():
            text = text.replace(f"]({file}", f"](../{target}")
    else:
        up = "../" * page.count("/")
        text = source[0]
        for file, target in FILES.items():
            text = text.replace(f"](../{up}{file}", f"]({up}{target}")
    # Other files of the repository have no pages.
    source[0] = re.sub(
        r"\[([^\]]+)\]\((?:\.\./)*(?:configs|colab|tests|vit_jax|benchmarks|LICENSE)[^)]*\)",
        r"\1",
        text,
    )


def _mark_code(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Make literal blocks of the paragraphs of a module docstring that are code.

    A name in backquotes may be followed by letters, such as the s of a plural.
    """
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?=\w)", r"`\1`\\ ", line) for line in lines]
    if what != "module":
        return
    marked = []
    for paragraph in "\n".join(lines).split("\n\n"):
        if _is_code(inspect.cleandoc(paragraph)):
            block = inspect.cleandoc(paragraph).splitlines()
            paragraph = "\n".join(["::", "", *(f"    {line}" for line in block)])
        marked.append(paragraph)
    lines[:] = "\n\n".join(marked).splitlines()


def _is_code(text: str) -> bool:
    if text.startswith("python -m "):
        return True
    try:
        nodes = ast.parse(text).body
    except SyntaxError:
        return False
    code = (ast.Assign, ast.Import, ast.ImportFrom, ast.Expr)
    return all(isinstance(node, code) for node in nodes) and any(
        not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in nodes
    )


def _add_settings(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Append the settings of a class to its docstring: name, default, meaning and choices."""
    rows = _settings(obj) if what == "class" else []
    if not rows:
        return
    lines += ["", ".. list-table::", "   :header-rows: 1", "   :class: settings", ""]
    for row in [("setting", "default", "meaning"), *rows]:
        for i, cell in enumerate(row):
            lines.append(f"   {' ' if i else '*'} - {cell}")
    lines.append("")


def _settings(schema: object) -> list[tuple[str, str, str]]:
    """Return name, default and meaning of each setting of a class."""
    if not (inspect.isclass(schema) and dataclasses.is_dataclass(schema)):
        return []
    fields = dataclasses.fields(schema)
    if not any("help" in field.metadata for field in fields):
        return []
    declared = choices._declared(schema)
    rows = []
    for field in fields:
        if field.name in declared:
            choice = field.metadata.get("choice")
            default = choice.name if choice else field.default
            shown = "" if default is dataclasses.MISSING else f"``{default!r}``"
            meaning = re.sub(r"([*_|])", r"\\\1", declared[field.name].help)
            rows.append((f"``{field.name}``", shown, meaning))
        elif dataclasses.is_dataclass(field.default_factory):
            section = field.default_factory.__name__
            rows.append((f"``{field.name}``", "", f"a section: `{section}`"))
    return rows


def _shorten_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, result: str
) -> tuple[str, str | None] | None:
    """Leave out the signature of a class that has a table of settings, and unreadable defaults."""
    if what == "class" and _settings(obj):
        return "", None
    if signature:
        signature = re.sub(r"(, )?parent: [^=]*= <flax[^>]*>, name: [^=]*= None", "", signature)
        return signature.replace("<factory>", "..."), result
    return None


def _skip_alias(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Skip the fields of named tuples, which the signature shows."""
    return True if (getattr(obj, "__doc__", "") or "").startswith("Alias for field") else None


def _keep_property(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Keep the docstring of a property from napoleon, which takes a colon in it for a type."""
    if what != "property":
        return
    if name in _kept:
        lines[:] = _kept.pop(name)
    else:
        _kept[name] = list(lines)
        lines.clear()


_kept: dict[str, list[str]] = {}


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("source-read", _read_file)
    app.connect("autodoc-process-docstring", _mark_code, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _add_settings)
    app.connect("autodoc-process-signature", _shorten_signature)
    app.connect("autodoc-skip-member", _skip_alias)
    app.connect("autodoc-process-docstring", _keep_property, priority=400)
    app.connect("autodoc-process-docstring", _keep_property, priority=600)
