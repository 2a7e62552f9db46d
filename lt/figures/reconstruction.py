from __future__ import annotations

from pathlib import Path

import numpy as np

from lt.errors import UserError
from lt.figures import style

TITLES = ("original", "masked", "reconstruction")


def reconstructions(
    path: str | Path, originals: np.ndarray, masked: np.ndarray, predicted: np.ndarray, *, visible: np.ndarray
) -> None:
    """Rows of three: the image, what the encoder saw, and the prediction in the places that it did not see.

    Images [N, H, W] or [N, H, W, 3] in 0..1; `visible` [N, H, W] is true where the encoder saw the pixel.
    """
    shape = np.shape(originals)
    if not shape or shape[0] == 0 or np.shape(masked) != shape or np.shape(predicted) != shape:
        raise UserError(f"figure reconstructions: {shape}, {np.shape(masked)}, {np.shape(predicted)}: expected N alike")
    if np.shape(visible) != shape[:3]:
        raise UserError(f"figure reconstructions: visible is {np.shape(visible)}, the images are {shape}")
    seen = np.asarray(visible, dtype=bool)
    seen = seen[..., None] if len(shape) == 4 else seen
    pasted = np.where(seen, originals, predicted)
    with style.drawing(
        path, columns=3, rows=shape[0], width=style.COLUMN, height=0.25 + style.COLUMN / 3 * shape[0], squeeze=False
    ) as axes:
        for row, images in zip(axes, zip(originals, masked, pasted, strict=True), strict=True):
            for place, image in zip(row, images, strict=True):
                place.imshow(np.clip(image, 0.0, 1.0), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
                place.set_axis_off()
        for place, title in zip(axes[0], TITLES, strict=True):
            place.set_title(title)
