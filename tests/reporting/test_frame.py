"""Pages: escaped by construction, and closed to everything that is not in the file."""

import base64
import hashlib
import re

from vit_jax.reporting.frame import frame
from vit_jax.reporting.markup import Markup, join, tag
from vit_jax.reporting.tables import table

HOSTILE = "<script>alert('1')</script>"
ESCAPED = "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;"


def test_text_and_attributes_are_escaped():
    assert tag("p", HOSTILE) == f"<p>{ESCAPED}</p>"
    assert tag("p", title='"><b>') == '<p title="&quot;&gt;&lt;b&gt;"></p>'
    assert join([HOSTILE, Markup("<b>")]) == ESCAPED + "<b>"
    assert tag("p", "left\u202eright \udcff") == "<p>left\\u202eright \\udcff</p>"


def test_attributes_are_named_as_in_html():
    made = tag("circle", class_="mark", data_x=1.504, aria_label="a", hidden=True, id=None)
    assert made == '<circle class="mark" data-x="1.5" aria-label="a" hidden></circle>'
    assert tag("img", src="data:,") == '<img src="data:,">'


def test_a_table_names_its_rows_and_columns():
    made = table("sizes", ["class", "images"], [[HOSTILE, "12"]])
    assert f'<th scope="row">{ESCAPED}</th><td class="number">12</td>' in made
    assert made.startswith('<div class="scroll" role="group" aria-label="sizes" tabindex="0">')


def test_a_page_has_its_own_style_and_script_and_allows_no_other():
    page = frame(HOSTILE, HOSTILE, {"first": (HOSTILE, tag("p", HOSTILE))})
    assert "<script>alert" not in page
    for element in ("style", "script"):
        (text,) = re.findall(f"<{element}>(.*?)</{element}>", page, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{element}-src &#x27;sha256-{digest}&#x27;" in page
    assert "default-src &#x27;none&#x27;" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert " style=" not in page
