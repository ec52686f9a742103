"""The words for each transform, and the bits that pixels take."""

import cv2
import numpy as np
import pytest

from src.data.inspection import count_bits, tile_images
from tests.data.building import build, describe


def test_a_strength_takes_the_place_of_the_preset_s_alone():
    assert describe(build(preset="heavy", rotate=5, blur=3, cutout=0.3)) == [
        "p=1.00 RandomResizedCrop size=(48,48) scale=(0.5,1) ratio=(0.8,1.25) area_for_downscale=image",
        "p=0.70 Affine scale=(0.8,1.2) translate_percent=(-0.1,0.1) rotate=(-5,5) shear=(0,0) keep_ratio=True "
        "border_mode=4",
        "p=0.50 HorizontalFlip",
        "p=0.70 RandomBrightnessContrast brightness_limit=(-0.3,0.3) contrast_limit=(-0.3,0.3)",
        "p=0.50 HueSaturationValue hue_shift_limit=(-10,10) sat_shift_limit=(-25,25) val_shift_limit=(-15,15)",
        "p=0.30 OneOf",
        "  p=0.50 GaussianBlur blur_limit=(0,0) sigma_limit=(1,3)",
        "  p=0.50 GaussNoise std_range=(0.02,0.08)",
        "p=0.50 Cutout side=0.3",
    ]
    assert describe(build(preset="light", brightness=0.1, erasing=0.2, rand_augment=4, augmix=2))[1:] == [
        "p=0.50 HorizontalFlip",
        "p=0.50 RandomBrightnessContrast brightness_limit=(-0.1,0.1) contrast_limit=(-0.1,0.1)",
        "p=1.00 RandAugment magnitude=4",
        "p=0.20 RandomErasing",
        "p=1.00 AugMix severity=2",
    ]
    assert describe(build(preset="none", flips="d4", size=(32, 48))) == []


@pytest.mark.parametrize(("largest", "bits"), [(1, 1), (255, 8), (256, 9), (4095, 12), (65535, 16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_bits_of_the_largest_pixel_are_counted(largest, bits, channels):
    pixels = np.zeros((4, 5, channels), np.uint16)
    pixels[2, 3, -1] = largest
    assert count_bits(cv2.imencode(".png", pixels)[1].tobytes()) == bits
    assert count_bits(cv2.imencode(".png", pixels.astype(np.uint8))[1].tobytes()) == 0  # not of 16-bit pixels


def test_several_images_are_shown_as_a_grid():
    images = np.arange(2 * 2 * 3).reshape(1, 2, 2, 3)  # one row, 2 x 2 pixels, three grey images
    assert tile_images(images, 1)[0, ..., 0].tolist() == [[0, 3, 1, 4], [6, 9, 7, 10], [2, 5, 0, 0], [8, 11, 0, 0]]
    assert tile_images(images, 3) is images
