"""Pages for people: one HTML file with its pictures inside, that needs no network and can be sent as it is."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light; --ink: #1c1e21; --soft: #5d636b; --line: #dfe2e6; }
body { margin: 0; background: #f6f6f4; color: var(--ink);
       font: 16px/1.55 system-ui, "Segoe UI", Helvetica, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
p { max-width: 46rem; }
.soft { color: var(--soft); }
figure { margin: 0; }
figure img { width: 100%; height: auto; border-radius: 8px; border: 1px solid var(--line); }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .35rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.4rem 0; }
.card { flex: 1 1 13rem; background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem; }
.card b { display: block; font-size: 2rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: #fff; width: 100%; font-size: .93rem; }
th, td { padding: .42rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
         font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tr.all td { border-top: 2px solid var(--ink); font-weight: 650; }
.up { color: #1f7a3d; }
.down { color: #b3261e; }
pre { background: #1b1d20; color: #eceff2; padding: .9rem 1.1rem; border-radius: 8px; font-size: .8rem;
      white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of parts in HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def picture(png: bytes, caption: str) -> str:
    """A picture with its words."""
    data = base64.b64encode(png).decode("ascii")
    words = escape(caption)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, last: bool = False) -> str:
    """A table of ready HTML cells; with `last` its last row stands out."""
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    kinds = ["all" if last and n == len(lines) - 1 else "" for n in range(len(lines))]
    body = "".join(f'<tr class="{kind}">{line}</tr>' for kind, line in zip(kinds, lines, strict=True))
    head = "".join(f"<th>{text}</th>" for text in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def card(words: str, value: str) -> str:
    """A figure that is to be seen first; several stand in a `<div class="cards">`."""
    return f'<div class="card"><span class="soft">{escape(words)}</span><b>{escape(value)}</b></div>'


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
