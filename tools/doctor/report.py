"""Findings, facts and pictures -> doctor.html: one file that needs no network. jinja2's only door.

The idea to know: file names, ids and columns are the host's, so everything that enters the page is escaped.
"""

import base64
from pathlib import Path

import cv2
import jinja2
import numpy as np

from src.data.decode import decode_image, resize_image
from src.errors import UserError
from src.files import save_text
from tools.doctor.findings import SEVERITIES

_SIDE = 160  # pixels of a picture's longer side; smaller ones stay as they are


def save_report(path, case, findings, facts):
    """Write the page.

    Args:
        case: case.Case.
        findings: list of findings.Finding, in the order of the page.
        facts: list of findings.Fact.
    """
    names = case.names
    pictures = {
        row: {"name": names[row], "source": _draw(case, row)}
        for row in sorted({row for one in findings for group in one.pictures for row in group})
    }
    counts = {severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES}
    save_text(path, render(case.config.competition.name, findings, facts, pictures, counts))


def render(name, findings, facts, pictures, counts):
    """Return the page's text; all words are escaped.

    Args:
        name: of the competition.
        pictures: {row of the scan: {"name": str, "source": data URL}}.
        counts: {severity: number of findings}.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((Path(__file__).parent / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(name=name, findings=findings, facts=facts, pictures=pictures, counts=counts)


def _draw(case, row):
    """Return one image of the scan as a data URL of a PNG."""
    channels, picture = case.config.competition.channels, case.scan.thumbnails[row][..., None]
    if channels in (1, 3):
        try:
            pixels = decode_image(str(case.scan.paths[row]), channels)
            picture = pixels if pixels.dtype == np.uint8 else picture
        except UserError:  # of an unreadable image there is nothing to show but its empty thumbnail
            pass
    scale = _SIDE / max(picture.shape[:2])
    if scale < 1:
        picture = resize_image(picture, tuple(max(1, round(side * scale)) for side in picture.shape[:2]))
    if picture.shape[2] == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".png", np.ascontiguousarray(picture))[1]
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()
