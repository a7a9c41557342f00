"""Image sensor model: exposure, vignette, lens blur, noise, tone curve, JPEG compression."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

from stl_core.types import Array

#: Saturation boost of cameras: each channel moves away from the mean of the three by a sixth.
_SATURATION_MATRIX = (1.16 * np.eye(3) - 0.16 / 3).astype(np.float32)


@lru_cache(maxsize=1)
def _srgb_table() -> Array:
    """Return the sRGB curve as a table: 4096 levels of light to 8 bits."""
    levels = np.arange(4096) / 4095.0
    curve = np.where(levels < 0.0031308, 12.92 * levels, 1.055 * levels ** (1 / 2.4) - 0.055)
    return (curve * 255 + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class SensorSettings:
    """
    Sensor parameters of one image.

    :param exposure: target mean brightness of the image.
    :param blur_px: standard deviation of the lens blur.
    :param read_noise: standard deviation in the dark, fraction of full scale.
    :param shot_noise: increase of the variance from dark to bright, fraction of full scale.
    :param white_balance: gains of red and blue.
    :param vignette: fraction of light lost in the corners.
    :param jpeg_quality: JPEG quality, 0 to 100.
    """

    exposure: float
    blur_px: float
    read_noise: float
    shot_noise: float
    white_balance: tuple[float, float]
    vignette: float
    jpeg_quality: int


def draw_sensor_settings(rng: np.random.Generator) -> SensorSettings:
    """Draw the sensor parameters of one image."""
    red, blue = 1 + rng.normal(0, 0.035, 2)
    return SensorSettings(
        exposure=float(np.clip(rng.normal(0.31, 0.055), 0.19, 0.45)),
        blur_px=float(rng.uniform(0.40, 0.75)),
        read_noise=float(np.exp(rng.uniform(np.log(0.002), np.log(0.010)))),
        shot_noise=float(np.exp(rng.uniform(np.log(2e-5), np.log(4e-4)))),
        white_balance=(float(red), float(blue)),
        vignette=float(rng.uniform(0.0, 0.22)),
        jpeg_quality=int(rng.integers(84, 98)),
    )


def simulate_sensor(
    linear_rgb: Tensor, settings: SensorSettings, rng: np.random.Generator
) -> Array:
    """
    Simulate the sensor: linear light to the 8-bit image of a camera.

    :param linear_rgb: (3, H, W) linear RGB.
    :param settings: sensor parameters.
    :param rng: generator of the noise; drawn on the CPU, so the image is the same on every device.
    :return: (H, W, 3) uint8 RGB.
    """
    height, width = linear_rgb.shape[1:]
    gain = settings.exposure / float(linear_rgb.clamp(max=1.6).mean()) * 1.05
    gains = linear_rgb.new_tensor(
        [gain * settings.white_balance[0], gain, gain * settings.white_balance[1]]
    )
    x = linear_rgb * gains[:, None, None]
    across = torch.linspace(-1, 1, width, device=linear_rgb.device)
    down = torch.linspace(-1, 1, height, device=linear_rgb.device) * height / width
    x.mul_(1 - settings.vignette * (across.square()[None] + down.square()[:, None]) / 1.1)
    image = cv2.GaussianBlur(cv2.merge(list(x.cpu().numpy())), (5, 5), settings.blur_px)
    image = cv2.transform(image, _SATURATION_MATRIX)
    image -= 0.012
    np.maximum(image, 0, out=image)
    image *= 1.16 * (1 + 0.12 * image) / (1 + 0.38 * image)  # a soft shoulder before clipping
    noise = np.sqrt(settings.read_noise**2 + settings.shot_noise * image)
    noise *= rng.standard_normal(image.shape, np.float32)
    image += noise
    np.clip(image, 0, 1, out=image)
    tones = _srgb_table()
    image *= len(tones) - 1
    return jpeg_roundtrip(tones.take(image.astype(np.int32)), settings.jpeg_quality)


def jpeg_roundtrip(image: Array, quality: int) -> Array:
    """Return a (H, W, 3) uint8 RGB image with JPEG compression artefacts."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    coded = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
