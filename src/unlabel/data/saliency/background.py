"""Robust background detection: what the image's border is connected to is background.

Zhu, Liang, Wei and Sun, "Saliency optimization from robust background detection" (CVPR 2014), on
superpixels. Colours are CIE-Lab; N superpixels. Equations are the paper's, from memory.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import spsolve
from scipy.spatial.distance import cdist

from unlabel.data.saliency.superpixels import Superpixels, superpixels

COLOUR = 10.0
"""Distance in Lab at which colours stop being alike (sigma_clr)."""
PLACE = 0.25
"""Distance, over the image's longer side, at which contrast stops to count (sigma_spa)."""
BOUNDARY = 1.0
"""Boundary connectivity from which on a region is background (sigma_bndCon)."""
SMOOTHNESS = 0.1
"""Least weight between neighbours (mu)."""


def background_detection(image: np.ndarray) -> np.ndarray:
    """Saliency of an image: the least-squares fit to background and contrast (equation 9).

    Args:
        image: uint8 (h, w, 3).

    Returns:
        float64 (h, w), constant within each superpixel.
    """
    parts = superpixels(image)
    apart = cdist(parts.colour, parts.colour)
    background = 1 - np.exp(-(_connectivity(parts, apart) ** 2) / (2 * BOUNDARY**2))
    near = np.exp(-(cdist(parts.place, parts.place) ** 2) / (2 * PLACE**2))
    contrast = (apart * near) @ background
    contrast /= max(contrast.max(), 1e-12)
    return _fit(parts, apart, background, contrast)[parts.of]


def _connectivity(parts: Superpixels, apart: np.ndarray) -> np.ndarray:
    """Length along the border of each superpixel's region over the root of its area, (N,).

    The region is soft: all that a path of like colours leads to (equations 2 to 5).
    """
    likeness = np.exp(-(_geodesic(parts, apart) ** 2) / (2 * COLOUR**2))
    return (likeness @ parts.border) / np.sqrt(likeness.sum(axis=1))


def _geodesic(parts: Superpixels, apart: np.ndarray) -> np.ndarray:
    """Colour distances summed along the shortest paths: (N, N).

    All border superpixels count as neighbours, so that a region that an object parts stays one.
    Steps as small as the mean one to the likest neighbour are free, or they would add up along
    smooth gradients (Wei et al. 2012, section 3).
    """
    neighbours = parts.touching.toarray() | np.outer(parts.border, parts.border)
    np.fill_diagonal(neighbours, False)
    steps = np.where(neighbours, apart, np.inf)
    likest = np.where(parts.touching.toarray(), apart, np.inf).min(axis=1)
    free = likest[np.isfinite(likest)].mean() if np.isfinite(likest).any() else 0.0
    # An edge of weight 0 would be no edge to scipy.
    steps = np.where(neighbours, np.maximum(apart - free, 1e-9), 0)
    return csgraph.shortest_path(sparse.csr_array(steps), method="D", directed=False)


def _fit(
    parts: Superpixels, apart: np.ndarray, background: np.ndarray, contrast: np.ndarray
) -> np.ndarray:
    """Values that are low on background, high on contrast, and alike in like neighbours: (N,)."""
    one, other = parts.touching.nonzero()
    likeness = np.exp(-(apart[one, other] ** 2) / (2 * COLOUR**2)) + SMOOTHNESS
    weights = sparse.csr_array((likeness, (one, other)), shape=apart.shape)
    own = weights.sum(axis=1) + background + contrast
    return np.atleast_1d(spsolve(sparse.csc_array(sparse.diags_array(own) - weights), contrast))
