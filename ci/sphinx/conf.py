"""Sphinx settings of the site (`bash ci/site`). Sources are the notebooks and pages where they lie in the repository."""

import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
ATTACK = ROOT / "out" / "attack.html"  # made by ci/interactive.py

project = "Small changes, big errors"
author = "the authors of ecgnb"
release = metadata.version("ecgnb")
language = "en-GB"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.githubpages"]
root_doc = "notebooks/index"
include_patterns = ["README.md", ".github/*.md", "ci/*.md", "models/README.md", "notebooks/*.ipynb", "notebooks/**.md"]
exclude_patterns = [".git", ".venv", ".*_cache", "out", "runs", "build", "**/.ipynb_checkpoints"]

nb_execution_mode = "off"  # as stored
nb_ipywidgets_js: dict = {}  # the default fetches two scripts; a notebook's widgets need a kernel
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
suppress_warnings = ["ref.python"]  # a name may be documented as `ecgnb.Dataset` and in its module

default_role = "code"  # docstrings mark names with single backticks
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "set"}  # Matplotlib's own
add_module_names = False

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
templates_path = ["templates"]
html_extra_path = ["index.html"] + [str(ATTACK)] * ATTACK.exists()
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def visit_math(translator, node):
    """A formula as MathML, which browsers draw themselves: no script, no fonts, nothing fetched."""
    block = isinstance(node, nodes.math_block)
    translator.body.append(tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


class CommandHelp(SphinxDirective):
    """What a command prints, in a box: `{command} python -m ecgnb train --help`."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        words = shlex.split(self.arguments[0])
        words[0] = {"python": sys.executable}.get(words[0], words[0])
        environment = os.environ | {"COLUMNS": "80", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        text = f"$ {self.arguments[0]}\n{done.stdout}"
        return [nodes.literal_block(text, text, language="text")]


class AttackPage(SphinxDirective):
    """A link to the interactive page, or how to make it: `{attack}`."""

    def run(self):
        text = (
            "To touch an attack without Python, make a page with sliders: `python ci/interactive.py out/attack.html`."
        )
        if ATTACK.exists():
            text = '<p><a href="../attack.html">Touch an attack</a>: drag ε, and see what four recordings become.</p>'
            return [nodes.raw("", text, format="html")]
        return self.parse_text_to_nodes(text)


class Modules(SphinxDirective):
    """Every module of a sub-package, with what its docstrings say: `{modules} attacks`."""

    required_arguments = 1

    def run(self):
        text = ""
        for path in sorted((ROOT / "ecgnb" / self.arguments[0]).glob("*.py")):
            module = f"ecgnb.{self.arguments[0]}.{path.stem}".removesuffix(".__init__")
            members = "" if path.stem == "__init__" else "   :members:\n"
            text += f"### {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n{members}```\n\n"
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class FigureAlt(SphinxPostTransform):
    """An image that a cell made and that has no alternative text gets the name of its section."""

    default_priority = 1

    def run(self, **_):
        for image in self.document.findall(nodes.image):
            if "alt" not in image:
                section = image
                while section.parent is not None and not isinstance(section, nodes.section):
                    section = section.parent
                title = section.next_node(nodes.title)
                image["alt"] = f"Figure: {title.astext() if title else ''}. The text beside it says what it shows."


NAMED = r"[A-Za-zα-ω_][\w, /.-]* :\s"  # how docstrings begin the explanation of a parameter


def as_rst(app, what, name, subject, options, lines):
    """Docstrings are plain text. What they say of parameters, such as "x : (n,) float32, …; y : …", becomes a list."""
    paragraphs = []
    for paragraph in "\n".join(lines).split("\n\n"):
        if not paragraph.startswith(">>>"):
            paragraph = paragraph.replace("*", r"\*")
        if first := re.search(f"^{NAMED}", paragraph, re.M):
            before, named = paragraph[: first.start()], paragraph[first.start() :]
            named, *after = re.split(r"\n(?=Raises|Returns)", named)
            items = re.split(rf"(?:;\s+|\n)(?={NAMED})", named)
            paragraphs += [before, *("- " + " ".join(item.split()) for item in items), *after]
        else:
            paragraphs.append(paragraph)
    lines[:] = "\n\n".join(paragraphs).splitlines()


def as_slides(app, pagename, templatename, context, doctree):
    """The page of slides has a template of its own, without the site's frame."""
    return "slides.html" if pagename == "notebooks/course/slides" else None


def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math, None))
    app.add_directive("command", CommandHelp)
    app.add_directive("attack", AttackPage)
    app.add_directive("modules", Modules)
    app.connect("autodoc-process-docstring", as_rst)
    app.add_post_transform(FigureAlt)
    app.connect("html-page-context", as_slides)


html_math_renderer = "mathml"
