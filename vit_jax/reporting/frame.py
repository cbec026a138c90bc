"""The frame of every page: head, header with a switch of the theme, navigation, and footer."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources

from vit_jax import __version__
from vit_jax.reporting.markup import Markup, tag

# The page may use its own style, its own script and pictures within it, and nothing else.
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    "style-src '{style}'; script-src '{script}'"
)


def frame(title: str, summary: str, sections: Mapping[str, tuple[str, Markup]]) -> str:
    """Return a whole page as one file, without anything that is loaded from elsewhere.

    Args:
      title: The title of the page.
      summary: One line below the title.
      sections: The heading and the content of each section, by the id of its anchor.
    """
    style, script = _read("style.css"), _read("script.js")
    policy = _POLICY.format(style=_digest(style), script=_digest(script))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", style),
    )
    body = tag(
        "body",
        tag("a", "Skip to the content", class_="skip", href="#content"),
        tag("header", _switch(), tag("h1", title), tag("p", summary, class_="summary")),
        _navigation(sections),
        tag("main", *_sections(sections), id="content", tabindex="-1"),
        tag("footer", tag("p", f"Written by vit_jax {__version__}.")),
        tag("script", script),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _switch() -> Markup:
    """Return the button that changes the theme; without the script, the system's theme holds."""
    return tag("button", "Dark theme", type="button", id="theme", aria_pressed="false", hidden=True)


def _navigation(sections: Mapping[str, tuple[str, Markup]]) -> Markup:
    links = [
        tag("li", tag("a", heading, href=f"#{anchor}")) for anchor, (heading, _) in sections.items()
    ]
    return tag("nav", tag("ul", *links), aria_label="Sections")


def _sections(sections: Mapping[str, tuple[str, Markup]]) -> list[Markup]:
    return [
        tag(
            "section",
            tag("h2", heading, id=f"{anchor}-h"),
            content,
            id=anchor,
            aria_labelledby=f"{anchor}-h",
        )
        for anchor, (heading, content) in sections.items()
    ]


def _read(name: str) -> Markup:
    return Markup(resources.files(__package__).joinpath(name).read_text("utf-8"))


def _digest(text: str) -> str:
    """Return the source expression of the Content-Security-Policy for an inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
