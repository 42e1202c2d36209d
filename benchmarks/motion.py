"""What a clip does, measured from its frames alone: how far it moves, whether it holds.

Optical flow is OpenCV's DIS (Kroeger et al. 2016) between neighbouring frames,
at the finest scale.
"""

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float, UInt8

__all__ = [
    "flow",
    "mean_motion",
    "psnr",
    "sharpness",
    "spearman",
    "speed",
    "warp_psnr",
]

Frame = UInt8[np.ndarray, "h w 3"]
Frames = UInt8[np.ndarray, "t h w 3"]
Field = Float[np.ndarray, "h w 2"]


def psnr(a: Float[np.ndarray, "..."], b: Float[np.ndarray, "..."]) -> float:
    """Of values from 0 to 255, in dB."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-10)))


def grey(frame: Frame) -> UInt8[np.ndarray, "h w"]:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def flow(before: Frame, after: Frame) -> Field:
    """Where each pixel of `before` is in `after`, in pixels (x, y)."""
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    finder.setFinestScale(0)
    return finder.calc(grey(before), grey(after), None)


def speed(frames: Frames) -> float:
    """Mean length of the flow between neighbouring frames, in hundredths of the width."""
    fields = [flow(a, b) for a, b in pairwise(frames)]
    return (
        float(np.mean([np.linalg.norm(f, axis=2).mean() for f in fields])) / frames.shape[2] * 100
    )


def mean_motion(frames: Frames) -> Float[np.ndarray, " 2"]:
    """Mean flow vector over pixels and frames."""
    fields = [flow(a, b) for a, b in pairwise(frames)]
    return np.mean([f.mean(axis=(0, 1)) for f in fields], axis=0)


def warp_psnr(frames: Frames) -> float:
    """Each frame carried by the flow onto the next one: mean PSNR in dB where it has a source."""
    found = [_warp_psnr(a, b) for a, b in pairwise(frames)]
    return float(np.mean(found))


def _warp_psnr(before: Frame, after: Frame) -> float:
    h, w = before.shape[:2]
    back = flow(after, before)  # for each pixel of `after`, where it was
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    x, y = x + back[..., 0], y + back[..., 1]
    carried = cv2.remap(before, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    return psnr(carried[inside], after[inside])


def sharpness(frame: Frame) -> float:
    """Variance of the Laplacian."""
    return float(cv2.Laplacian(grey(frame), cv2.CV_64F).var())


def spearman(a: list[float], b: list[float]) -> float:
    """Correlation of ranks."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])
