"""One self-contained HTML page: no script, no request to anywhere, readable on light and on dark.

Functions here return HTML; whatever they are given as text is escaped, unless its name says HTML.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from palaestra.launch.statistics import Interval

# The browser itself refuses anything that is not in the file.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"

STYLE = """
:root{--page:#f5f6f8;--card:#fff;--ink:#1c2430;--faint:#66707d;--line:#e4e8ee;--blue:#2b8cd6;--green:#1fa97c;
--orange:#e08a1e;--miss:#d5dae1;--soft:#eef2f6;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--page:#0d1014;--card:#151a21;--ink:#e6eaf0;--faint:#98a3b1;--line:#2c3542;
--blue:#4aa3ea;--green:#35c393;--orange:#f0a03c;--miss:#3a4452;--soft:#1c232c}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif;-webkit-font-smoothing:antialiased}
main{max-width:1120px;margin:0 auto;padding:36px 24px 64px}
header{padding-bottom:22px}
.mark{font-size:12px;letter-spacing:.16em;text-transform:uppercase;color:var(--blue);font-weight:700}
h1{font-size:32px;line-height:1.15;margin:6px 0 4px;letter-spacing:-.02em}
h2{font-size:17px;margin:0 0 14px;letter-spacing:-.01em}
h3{font-size:14px;margin:18px 0 8px}
.sub{color:var(--faint)}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:22px 24px;margin:0 0 18px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:14px;margin:0 0 18px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:16px 18px}
.tile b{display:block;font-size:28px;line-height:1.25;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile small{color:var(--faint);font-size:12.5px;display:block}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-size:12px;font-weight:600;color:var(--faint);text-align:left;padding:4px 14px 8px 0;
border-bottom:1px solid var(--line);white-space:nowrap}
td{padding:9px 14px 9px 0;border-bottom:1px solid var(--line);vertical-align:middle}
tr:last-child td{border-bottom:0}
td.n{white-space:nowrap}
td small{color:var(--faint)}
.bar{position:relative;height:20px;min-width:150px;border-radius:5px;background:var(--soft)}
.bar i{position:absolute;top:0;bottom:0;background:var(--blue);opacity:.35;border-radius:3px}
.bar b{position:absolute;top:-2px;bottom:-2px;width:3px;margin-left:-1.5px;background:var(--blue);border-radius:2px}
.note{margin:14px 0 0;padding:10px 14px;border-left:3px solid var(--blue);background:var(--soft);
border-radius:0 8px 8px 0}
.note.warn{border-color:var(--orange)}
.note.good{border-color:var(--green)}
img{display:block;max-width:100%;height:auto}
@media (prefers-color-scheme:dark){.diagram{filter:invert(1) hue-rotate(180deg) brightness(1.15)}}
.wide+.wide{margin-top:22px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:7px 20px;margin:0}
dt{color:var(--faint)}
dd{margin:0;overflow-wrap:anywhere}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace}
pre{background:var(--soft);border-radius:8px;padding:12px 14px;overflow-x:auto;margin:10px 0 0}
.chip{display:inline-block;background:var(--soft);border-radius:99px;padding:1px 10px;margin:0 6px 4px 0;font-size:13px}
details{margin-top:14px}
summary{cursor:pointer;color:var(--blue);font-weight:600;font-size:14px}
.strip{display:flex;flex-wrap:wrap;gap:2px;margin:6px 0 4px}
.strip i,.key i{width:9px;height:9px;border-radius:2px;background:var(--miss)}
.strip .end,.key .end{background:var(--green)}
.strip .once,.key .once{background:var(--orange)}
.key{font-weight:400;font-size:12.5px}
.key i{display:inline-block;margin:0 5px 0 14px}
.films{display:grid;grid-template-columns:repeat(auto-fill,minmax(260px,1fr));gap:14px}
figure{margin:0}
video{width:100%;border-radius:10px;background:#000;display:block}
figcaption{font-size:13px;color:var(--faint);margin-top:4px;overflow-wrap:anywhere}
footer{color:var(--faint);font-size:13px;text-align:center;margin-top:26px}
details table td{padding:3px 14px 3px 0;font-size:13px}
@media print{section,.tile{break-inside:avoid}}
"""


def page(title: str, subtitle: str, body: Iterable[str]) -> str:
    """Return the whole document; `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f'<header><div class="mark">Palaestra</div><h1>{escape(title)}</h1>'
        f'<div class="sub">{escape(subtitle)}</div></header>\n'
        + "\n".join(part for part in body if part)
        + "\n<footer>Made by Palaestra. This file holds everything it shows and asks nothing of any network.</footer>"
        "</main></body></html>\n"
    )


def section(title: str, *html: str) -> str:
    """Return a titled card, empty where it would hold nothing."""
    inside = "\n".join(part for part in html if part)
    return f"<section><h2>{escape(title)}</h2>{inside}</section>" if inside else ""


def tile(label: str, value: str, small: str = "") -> str:
    """Return one big number."""
    return f'<div class="tile"><small>{escape(label)}</small><b>{escape(value)}</b><small>{escape(small)}</small></div>'


def tiles(html: Sequence[str]) -> str:
    """Return big numbers side by side."""
    return f'<div class="tiles">{"".join(html)}</div>' if html else ""


def note(text: str, kind: str = "") -> str:
    """Return a remark that stands out; `kind` is "", "warn" or "good"."""
    return f'<p class="note {kind}">{escape(text)}</p>'


def table(header: Sequence[str], rows_html: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table whose cells are HTML already."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td class=n>{cell}</td>' for cell in row)}</tr>" for row in rows_html)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def interval_bar(value: float, interval: Interval) -> str:
    """Return a rate in [0, 1] as a mark on a track, with its interval as a band."""
    low, high = interval
    words = f"{100 * value:.1f} %, interval {100 * low:.1f} to {100 * high:.1f} %"
    return (
        f'<div class="bar" role="img" aria-label="{words}" title="{words}">'
        f'<i style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i>'
        f'<b style="left:{100 * value:.2f}%"></b></div>'
    )


def definitions(entries: Mapping[str, str]) -> str:
    """Return names with their values, which are HTML."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{html}</dd>' for name, html in entries.items())}</dl>"


def folded(summary: str, html: str) -> str:
    """Return what is shown when asked for."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def picture(png: bytes, words: str) -> str:
    """Return a diagram with a clear background, which turns with the page from light to dark."""
    return f'<img class="diagram" alt="{escape(words)}" src="{_inline(png, "image/png")}">'


def image(path: Path) -> str:
    """Return a PNG file with its name below."""
    data = _inline(path.read_bytes(), "image/png")
    return f'<figure><img alt="{escape(path.stem)}" src="{data}"><figcaption>{escape(path.stem)}</figcaption></figure>'


def films(paths: Sequence[Path], most: int, altogether: int) -> str:
    """Return films inside the page, up to `most` bytes each and `altogether`; larger ones are named with a link."""
    shown, links, used = [], [], 0
    for path in paths:
        size = path.stat().st_size
        if size > most or used + size > altogether:
            place = escape(f"{path.parent.name}/{path.name}")
            links.append(f'<a href="{place}">{place}</a> ({size / 1e6:.1f} MB)')
            continue
        used += size
        data = _inline(path.read_bytes(), "video/mp4")
        shown.append(
            f'<figure><video controls muted loop playsinline preload="metadata" src="{data}"></video>'
            f"<figcaption>{escape(path.stem)}</figcaption></figure>"
        )
    rest = f'<p class="sub">Too large to stand here: {", ".join(links)}</p>' if links else ""
    return (f'<div class="films">{"".join(shown)}</div>' if shown else "") + rest


def _inline(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
