"""Pages that tools write: one HTML file each, of one look (page.html.jinja), all text escaped. jinja2's only door."""

import base64
from hashlib import sha256
from pathlib import Path

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from src.data.decode import resize_image

_FOLDER = Path(__file__).parent
_QUALITY = 88  # of a JPEG, percent
# The only script that a page may run: a button on each command. Without it the page is whole, so it may be blocked.
_COPY = """
for (const command of document.querySelectorAll("pre.command")) {
  const text = command.textContent, button = document.createElement("button");
  button.type = "button";
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(command);
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 2000);
  });
  command.classList.add("copying");
  command.append(button);
}
"""
_HASH = base64.b64encode(sha256(_COPY.encode()).digest()).decode()
# So that a browser loads nothing and runs no other script, whatever a name from the data might get past the escaping.
_POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'"


def render(template, **values):
    """Return the HTML of a tool's template, a path in tools/ such as "doctor/report.html.jinja".

    Names of files, columns and classes come from the data, so all text is escaped; markup of our own is
    `markupsafe.Markup`.
    """
    options = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(_FOLDER), **options)
    return environment.get_template(template).render(script=Markup(_COPY), policy=_POLICY, **values)


def image_url(image, side=160):
    """Return an image (H, W, 1 or 3) uint8, RGB, as a data URL; its longer side is shrunk to `side` pixels at most.

    It is a PNG where that is smaller than a JPEG or the image is under 64 pixels; else a JPEG.
    """
    scale = side / max(image.shape[:2])
    if scale < 1:
        image = resize_image(image, tuple(max(1, round(one * scale)) for one in image.shape[:2]))
    if image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    image = np.ascontiguousarray(image)
    kind, encoded = "png", cv2.imencode(".png", image)[1]
    if max(image.shape[:2]) > 64:
        lossy = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
        if len(lossy) < len(encoded):
            kind, encoded = "jpeg", lossy
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
