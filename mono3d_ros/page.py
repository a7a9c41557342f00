"""A report as one HTML file that needs nothing else: tables, pictures inside, no script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import cv2

from stl_core.types import Array

#: Of photographs in a report: wide enough to read labels, small enough to mail.
PICTURE_WIDTH_PX, JPEG_QUALITY = 1000, 75

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1040px;
       padding: 0 1em; color: #1c2430; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; margin: .5em 0; }
td, th { padding: .25em .8em; border-bottom: 1px solid #d8dee8; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; margin: .4em 0; } p { max-width: 46em; }
"""


class Image(NamedTuple):
    """The bytes of an image file, and which kind: 'png' or 'jpeg'."""

    kind: str
    data: bytes


class Section(NamedTuple):
    """
    A part of a report.

    :param title: heading.
    :param text: a paragraph under it.
    :param headings: of the table.
    :param rows: of the table, as long as headings.
    :param images: under the table.
    """

    title: str
    text: str = ''
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    images: Sequence[Image] = ()


def html(title: str, sections: Sequence[Section]) -> str:
    """Lay out a report; sections with nothing under their heading are left out."""
    full = [each for each in sections if each.text or each.rows or each.images]
    body = '\n'.join(map(_section, full))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f'<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n'
    )


def photograph(picture: Array) -> Image:
    """(H, W, 3) uint8 RGB -> a JPEG of the width that reports have."""
    height = round(picture.shape[0] * PICTURE_WIDTH_PX / picture.shape[1])
    small = cv2.resize(picture, (PICTURE_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
    data = cv2.imencode('.jpg', cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)[1]
    return Image('jpeg', data.tobytes())


def _section(section: Section) -> str:
    parts = [f'<h2>{escape(section.title)}</h2>']
    if section.text:
        parts.append(f'<p>{escape(section.text)}</p>')
    if section.rows:
        lines = [_line(section.headings, 'th'), *(_line(row, 'td') for row in section.rows)]
        parts.append('<table>' + '\n'.join(lines) + '</table>')
    for kind, data in section.images:
        coded = base64.b64encode(data).decode()
        parts.append(f'<img alt="" src="data:image/{kind};base64,{coded}">')
    return '\n'.join(parts)


def _line(cells: Sequence[str], tag: str) -> str:
    return '<tr>' + ''.join(f'<{tag}>{escape(each)}</{tag}>' for each in cells) + '</tr>'
