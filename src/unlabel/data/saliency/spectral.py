"""Spectral residual: what in an image's spectrum is not as in most images.

Hou and Zhang, "Saliency detection: A spectral residual approach" (CVPR 2007).
"""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 64
"""Longer side in pixels that larger images are shrunk to (the paper's 64)."""
SMOOTH = 2.5
"""Sigma, in pixels of a 64-pixel image, of the last blur (the authors' code, from memory)."""


def spectral_residual(image: np.ndarray) -> np.ndarray:
    """Saliency of an image: its spectrum's phase with what is odd in its log amplitude.

    The residual is the log amplitude less its mean over 3 by 3 frequencies; the map is the squared
    inverse transform of residual and phase, blurred (section 2).

    Args:
        image: uint8 (h, w, 3).

    Returns:
        float32 (h, w).
    """
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = cv2.resize(image.mean(axis=2), size, interpolation=cv2.INTER_AREA)
    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.maximum(np.abs(spectrum), 1e-9))
    # The spectrum is periodic, and so is its mean.
    padded = cv2.copyMakeBorder(log_amplitude, 1, 1, 1, 1, cv2.BORDER_WRAP)
    residual = log_amplitude - cv2.blur(padded, (3, 3))[1:-1, 1:-1]
    found = np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))
    saliency = cv2.GaussianBlur(np.abs(found) ** 2, (0, 0), SMOOTH * max(size) / SIDE)
    return cv2.resize(saliency, (width, height)).astype(np.float32)
