"""Report pages as a browser would read them."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br"}
NASTY = """</script><script>alert("1")</script>'{{ 7 * 7 }}{% endblock %}"""
"""A name that breaks pages without escaping, in a tag, an attribute, a script or a template."""


class Page(HTMLParser):
    """Checks that tags close in order, and keeps what the page holds.

    Attributes:
        words: all text that is shown, in one line.
        tags: names of the elements, in their order.
        attributes: names of all attributes.
        links: addresses of images and other files.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.links = [], set(), []
        self._open, self._text = [], []
        self.feed(html)
        self.close()
        assert not self._open
        self.words = " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self._text.append(data)


def shown(page: Page, text: str) -> bool:
    """Whether a page shows a text letter by letter, whatever its line breaks."""
    return " ".join(text.split()) in page.words
