"""Views against numpy's own turns and mirrors."""

import numpy as np
import pytest
import torch

from src.errors import UserError
from src.inference.tta import VIEWS, build_views


def test_d4_is_the_eight_symmetries_of_the_square():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    views = build_views(["d4"], (3, 3)).values()
    seen = {tuple(view(image).flatten().tolist()) for view in views} | {tuple(image.flatten().tolist())}
    square = image[0, 0].numpy()
    expected = {tuple(np.rot90(one, turn).flatten().tolist()) for one in (square, square.T) for turn in range(4)}
    assert seen == expected
    assert len(views) == 7


def test_named_views_are_counted_once_and_sizes_change():
    assert len(build_views(["hflip", "d4", "hflip"], (8, 8))) == 7
    image = torch.rand(2, 3, 64, 32)
    flipped = build_views(["hflip"], (64, 32))["hflip"](image)
    assert torch.equal(flipped, torch.from_numpy(image.numpy()[..., ::-1].copy()))
    assert [tuple(view(image).shape[2:]) for view in build_views(["scales"], (64, 32)).values()] == [(56, 28), (72, 36)]


def test_views_have_names_and_none_is_lost_for_a_name_that_another_has(monkeypatch):
    assert list(build_views(["vflip", "d4", "scales"], (8, 8))) == [
        *("vflip", "hflip", "rotate180", "rotate90", "rotate270", "transpose", "antitranspose", "smaller", "larger")
    ]
    mine = (lambda images: images + 1, lambda images: images + 2)
    monkeypatch.setitem(VIEWS, "mine", mine)
    assert tuple(build_views(["mine"], (8, 8)).values()) == mine


def test_d4_needs_squares():
    with pytest.raises(UserError) as caught:
        build_views(["d4"], (64, 32))
    assert str(caught.value) == "infer.tta=d4: needs square images, image_size is [64, 32]; set infer.tta=[hflip,vflip]"
