"""Findings, facts and images -> doctor.html: one file that needs no network. jinja2's only door.

File names, ids and column names come from the data, so everything on the page is escaped.
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

_SIDE = 160  # pixels of an image's longer side; smaller ones keep their size


def save_page(path, data, findings, facts):
    """Write the page.

    Args:
        data: CompetitionData.
        findings: list of findings.Finding, as they follow on the page.
        facts: list of findings.Fact.
    """
    names = data.names
    images = {
        row: {"name": names[row], "source": _draw(data, row)}
        for row in sorted({row for one in findings for group in one.images for row in group})
    }
    counts = {severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES}
    save_text(path, render(data.config.competition.name, findings, facts, images, counts))


def render(name, findings, facts, images, counts):
    """Return the HTML of the page; all text is escaped.

    Args:
        name: of the competition.
        images: {row of the scan: {"name": str, "source": data URL}}.
        counts: {severity: number of findings}.
    """
    options = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(autoescape=True, **options)
    template = environment.from_string((Path(__file__).parent / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(name=name, findings=findings, facts=facts, images=images, counts=counts)


def _draw(data, row):
    """Return one image of the scan as a data URL of a PNG."""
    channels, image = data.config.competition.channels, data.scan.thumbnails[row][..., None]
    if channels in (1, 3):
        try:
            pixels = decode_image(str(data.scan.paths[row]), data.config.competition)
            image = pixels if pixels.dtype == np.uint8 else image
        except UserError:  # an unreadable image is shown by its empty thumbnail
            pass
    scale = _SIDE / max(image.shape[:2])
    if scale < 1:
        image = resize_image(image, tuple(max(1, round(side * scale)) for side in image.shape[:2]))
    if image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".png", np.ascontiguousarray(image))[1]
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()
