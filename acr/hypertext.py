"""Pieces of an HTML page that needs nothing but itself: it is read on any screen, in light and in dark, by eye or by ear."""

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from string import Template
from typing import Any

import cv2
import numpy as np
import pandas as pd
from jaxtyping import UInt8

from acr.images import palette


def frame_html(frame: pd.DataFrame) -> str:
    """A table that scrolls sideways where the screen is narrow."""
    return wide_html("table", frame.to_html(index=False, border=0))


def wide_html(label: str, content: str) -> str:
    """What may be wider than the screen, which those without a mouse scroll as well."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{html.escape(label)}">{content}</div>'


def markdown_html(text: str) -> str:
    """HTML of the Markdown that `acr.tables` writes: paragraphs, one pipe table, bold and backslashes."""
    lines = text.splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    paragraphs = "".join(f"<p>{_inline(line)}</p>" for line in lines if line and not line.startswith("|"))
    if not rows:
        return paragraphs
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows[2:])
    return paragraphs + wide_html("table", f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _inline(text: str) -> str:
    bold = re.sub(r"(?<!\\)\*\*(.+?)(?<!\\)\*\*", r"<b>\1</b>", html.escape(text.strip(), quote=False))
    return re.sub(r"\\([*|])", r"\1", bold)


def picture_html(title: str, picture: UInt8[np.ndarray, "_ _ 3"], alt: str) -> str:
    """One picture under its title, embedded as JPEG; `alt` is read out in its place."""
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done
    source = f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
    return f'<figure><img alt="{html.escape(alt)}" src="{source}"><figcaption>{html.escape(title)}</figcaption></figure>'


def plot_html(alt: str, svg: bytes) -> str:
    """A plot, embedded; `alt` is read out in its place."""
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return wide_html(alt, f'<img class="plot" alt="{html.escape(alt)}" src="{source}">')


def row_html(title: str, image_id: str, pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> str:
    """Pictures of one image side by side."""
    row = "".join(picture_html(name, picture, f"{name} of {image_id}") for name, picture in pictures.items())
    return f'<h3>{html.escape(title)}</h3><div class="row">{row}</div>'


def legend_html(classes: Sequence[str]) -> str:
    """The colours of the classes, and white for void."""
    colours = ["#" + bytes(colour).hex() for colour in palette()[1 : len(classes) + 1]]
    named = [*zip(classes, colours, strict=True), ("void", "#ffffff")]
    chips = (f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>' for name, colour in named)
    return f'<p class="legend">{" ".join(chips)}</p>'


def details_html(title: str, content: Any) -> str:
    """Nested values behind a title that opens on a click."""
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(json.dumps(content, indent=1))}</pre></details>"


def section(title: str, parts: Iterable[str]) -> str:
    """A section with a heading; empty where it has no parts."""
    body, name = "\n".join(parts), html.escape(_anchor(title))
    return f'<section id="{name}"><h2>{html.escape(title)}</h2>\n{body}\n</section>' if body else ""


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title).strip("-").lower()


def contents_html(sections: Iterable[str]) -> str:
    """Links to the sections that are there."""
    titles = re.findall("<h2>(.*?)</h2>", "".join(sections))
    links = "".join(f'<li><a href="#{html.escape(_anchor(html.unescape(title)))}">{title}</a></li>' for title in titles)
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --text: #1c1c1e; --page: #fdfdfc; --line: #d8d8d4; --soft: #f0f0ec; --dim: #6a6a66; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e3; --page: #17181a; --line: #3a3b3e; --soft: #222326; --dim: #a0a09b; }
}
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; font-weight: 500; margin: 1.2rem 0 .4rem; }
p { max-width: 46rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { background: var(--soft); font-weight: 600; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .5rem; max-width: 66rem; }
figure { margin: 0; } figure img { width: 100%; display: block; border-radius: 3px; }
figcaption, .legend { font-size: .8rem; color: var(--dim); }
.legend span { white-space: nowrap; margin-right: .8em; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .3em; border: 1px solid var(--line); }
.plot { width: 100%; min-width: 20rem; max-width: 42rem; }
.answer { font-size: 1.25rem; font-weight: 600; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; margin: 0; padding: 0; font-size: .85rem; }
a { color: inherit; } :focus-visible { outline: 2px solid #4b7bec; outline-offset: 2px; }
details { margin: .3rem 0; } summary { cursor: pointer; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; font-size: .75rem; }
</style>
</head>
<body>
<header><h1>$title</h1></header>
<main>
$answer
$contents
$sections
</main>
</body>
</html>
""")
