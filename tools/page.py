"""Pages that tools write: one HTML file each, of one look (page.html.jinja), all text escaped. jinja2's only door."""

import base64
from pathlib import Path

import cv2
import jinja2
import numpy as np

from src.data.decode import resize_image

_FOLDER = Path(__file__).parent


def render(template, **values):
    """Return the HTML of a tool's template, a path in tools/ such as "doctor/report.html.jinja".

    Names of files, columns and classes come from the data, so all text is escaped; markup of our own is
    `markupsafe.Markup`.
    """
    options = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(_FOLDER), **options)
    return environment.get_template(template).render(**values)


def image_url(image, side=160):
    """Return an image (H, W, 1 or 3) uint8, RGB, as a data URL: a PNG whose longer side has at most `side` pixels."""
    scale = side / max(image.shape[:2])
    if scale < 1:
        image = resize_image(image, tuple(max(1, round(one * scale)) for one in image.shape[:2]))
    if image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".png", np.ascontiguousarray(image))[1]
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()
