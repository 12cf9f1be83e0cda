"""Formulas as MathML, which browsers draw themselves: no script, no network."""

from __future__ import annotations

import html
import re
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert

SPACE = "{http://www.w3.org/1998/Math/MathML}"
PRIME, BARS = "\N{PRIME}", ("\N{HORIZONTAL BAR}", "\N{MACRON}")
ElementTree.register_namespace("", SPACE[1:-1])


def mathml(tex: str, display: str) -> str:
    """The formula, in a form that is right without a font for mathematics too."""
    root = ElementTree.fromstring(convert(tex, display=display))
    for element in list(root.iter()):
        children = list(element)
        last = (children[-1].text or "") if children else ""
        if element.tag == f"{SPACE}mover" and last in BARS and len(children[0]):
            # A bar over several signs needs a glyph that stretches: a border does it everywhere.
            element.tag = f"{SPACE}mrow"
            element.set("style", "border-top: 0.06em solid; padding-top: 0.12em")
            element.remove(children[-1])
        elif element.tag in (f"{SPACE}msup", f"{SPACE}msubsup") and last == PRIME:
            # The sign is raised by itself.
            base, *index, prime = children
            primed = ElementTree.Element(f"{SPACE}mrow")
            primed.extend([base, prime])
            for child in children:
                element.remove(child)
            element.tag = f"{SPACE}msub" if index else f"{SPACE}mrow"
            element.extend([primed, *index])
    return ElementTree.tostring(root, encoding="unicode")


def visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(f'<span class="math">{mathml(node.astext(), "inline")}</span>')
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """The formula, and its number, the ``\\tag``, beside it."""
    formula, tag = re.sub(r"\\tag\{[^}]*\}", "", node.astext()), re.search(r"\\tag\{([^}]*)\}", node.astext())
    number = f'<span class="eqno">({html.escape(tag[1])})</span>' if tag else ""
    translator.body.append(f'<div class="math">{mathml(formula.strip(), "block")}{number}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
