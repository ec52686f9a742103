"""The pages' own script, what a browser may load for them, and images as data URLs."""

import base64
import re
from hashlib import sha256
from html import unescape

import cv2
import numpy as np
import pytest

from tools.page import image_url, render


def decode(url):
    return cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_a_browser_may_run_the_one_script_and_load_nothing():
    page = render("page.html.jinja")
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    expected = base64.b64encode(sha256(script.encode()).digest()).decode()
    policy = unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page)[1])
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{expected}'"
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(("height", "width", "shape"), [(400, 200, (160, 80, 3)), (50, 100, (50, 100, 3))])
def test_an_image_is_shrunk_but_not_enlarged(height, width, shape):
    colour = np.array([250, 120, 10], np.uint8)
    image = decode(image_url(np.broadcast_to(colour, (height, width, 3)).copy()))
    assert image.shape == shape
    assert np.abs(image.astype(int) - colour).max() <= 2


def test_a_small_image_keeps_its_pixels_and_a_photograph_takes_little():
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    assert (decode(image_url(noise[:64, :64])) == noise[:64, :64]).all()
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    url = image_url(smooth)
    assert url.startswith("data:image/jpeg;")
    assert len(url) < 8000
    assert np.abs(decode(url).astype(int) - smooth).mean() < 3
