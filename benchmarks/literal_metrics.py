"""The twelve metrics written as the published evaluators are: NumPy and SciPy, one pair at a time, formula by formula.

Vectorised, but nothing is shared, separated or cached: two-dimensional Gaussian windows in VIF, one joint histogram per
pair of images, Sobel filters by two-dimensional convolution. It is what `tectum.metrics` is timed against (the time
goes where it goes in those evaluators) and a second oracle. Images are float64 (H,W) on 0..255, 8-bit levels.

>>> import numpy as np
>>> x = np.arange(256.0).reshape(16, 16)
>>> float(entropy(x)), round(ssim(x, x), 6)
(8.0, 1.0)
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.signal import convolve2d

Image = NDArray[np.float64]


def entropy(f: Image) -> float:
    """-sum p log2 p of the rounded image."""
    counts = np.bincount(np.round(f).astype(np.uint8).ravel(), minlength=256)
    p = counts[counts > 0] / f.size
    return float(-np.sum(p * np.log2(p)))


def standard_deviation(f: Image) -> float:
    """Population standard deviation."""
    return float(np.std(f))


def spatial_frequency(f: Image) -> float:
    """Root of the mean squared first differences along rows and along columns."""
    return float(np.sqrt(np.mean(np.diff(f, axis=0) ** 2) + np.mean(np.diff(f, axis=1) ** 2)))


def average_gradient(f: Image) -> float:
    """Mean of sqrt((gx^2 + gy^2) / 2), central differences, one-sided at the border."""
    gy, gx = np.gradient(f)
    return float(np.mean(np.sqrt((gx**2 + gy**2) / 2)))


def mutual_information(f: Image, a: Image) -> float:
    """In nats, from the joint histogram of the rounded images."""
    joint, _, _ = np.histogram2d(np.round(f).ravel(), np.round(a).ravel(), bins=256, range=[[-0.5, 255.5]] * 2)
    p = joint / f.size
    independent = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    filled = p > 0
    return float(np.sum(p[filled] * np.log(p[filled] / independent[filled])))


def correlation(x: Image, y: Image) -> float:
    """Pearson's, over all pixels."""
    x, y = x - x.mean(), y - y.mean()
    with np.errstate(invalid="ignore"):
        return float(np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y)))


def scd(f: Image, a: Image, b: Image) -> float:
    """The sum of the correlations of differences."""
    return correlation(a, f - b) + correlation(b, f - a)


def mean_squared_error(f: Image, a: Image, b: Image) -> float:
    """The mean over both sources."""
    return float((np.mean((f - a) ** 2) + np.mean((f - b) ** 2)) / 2)


def psnr(f: Image, a: Image, b: Image) -> float:
    """Of the mean squared error of both, with the largest value of the fused image as peak."""
    return float(10 * np.log10(f.max() ** 2 / mean_squared_error(f, a, b)))


def gaussian(size: int) -> Image:
    """The window (size,size) of standard deviation size / 5."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    window = np.exp(-(x**2 + y**2) / (2 * (size / 5) ** 2))
    return np.asarray(window / window.sum())


def vif(f: Image, a: Image) -> float:
    """Pixel-domain visual information fidelity of f as an image of a: vifp, four scales."""
    eps, noise = 1e-10, 2.0
    num = den = 0.0
    for scale in range(1, 5):
        window = gaussian(2 ** (5 - scale) + 1)

        def blur(x: Image, window: Image = window) -> Image:
            return convolve2d(x, window, mode="valid")

        if scale > 1:
            a, f = blur(a)[::2, ::2], blur(f)[::2, ::2]
        mean_a, mean_f = blur(a), blur(f)
        var_a = np.maximum(blur(a * a) - mean_a**2, 0)
        var_f = np.maximum(blur(f * f) - mean_f**2, 0)
        cov = blur(a * f) - mean_a * mean_f
        gain = cov / (var_a + eps)
        rest = var_f - gain * cov
        gain[var_a < eps] = 0
        rest[var_a < eps] = var_f[var_a < eps]
        var_a[var_a < eps] = 0
        gain[var_f < eps] = 0
        rest[var_f < eps] = 0
        rest[gain < 0] = var_f[gain < 0]
        gain[gain < 0] = 0
        rest = np.maximum(rest, eps)
        num += np.sum(np.log10(1 + gain**2 * var_a / (rest + noise)))
        den += np.sum(np.log10(1 + var_a / noise))
    return float(num / den)


def ssim(f: Image, a: Image, data_range: float = 255.0) -> float:
    """Mean structural similarity, 7x7 uniform window, sample covariance, pixels whose window is inside the image."""
    n = 49 / 48
    mean_f, mean_a = uniform_filter(f, 7), uniform_filter(a, 7)
    var_f = n * (uniform_filter(f * f, 7) - mean_f**2)
    var_a = n * (uniform_filter(a * a, 7) - mean_a**2)
    cov = n * (uniform_filter(f * a, 7) - mean_f * mean_a)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    top = (2 * mean_f * mean_a + c1) * (2 * cov + c2)
    bottom = (mean_f**2 + mean_a**2 + c1) * (var_f + var_a + c2)
    return float(np.mean((top / bottom)[3:-3, 3:-3]))


def sobel(x: Image) -> tuple[Image, Image]:
    """Magnitude and angle of the gradient, zeros outside the image."""
    kernel = np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    gx, gy = convolve2d(x, kernel, mode="same"), convolve2d(x, -kernel.T, mode="same")
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.where(gx == 0, np.pi / 2, np.arctan(gy / gx))
    return np.sqrt(gx**2 + gy**2), angle


def preserved(edge_f: tuple[Image, Image], edge_a: tuple[Image, Image]) -> Image:
    """The share of each edge of a that f preserves, in strength and direction."""
    (strength_f, angle_f), (strength_a, angle_a) = edge_f, edge_a
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(strength_a > strength_f, strength_f / strength_a, strength_a / strength_f)
    ratio = np.where(strength_a == strength_f, strength_f, ratio)
    alignment = 1 - np.abs(angle_a - angle_f) / (np.pi / 2)
    in_strength = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5)))
    in_direction = 0.9879 / (1 + np.exp(-22 * (alignment - 0.8)))
    return np.asarray(in_strength * in_direction)


def qabf(f: Image, a: Image, b: Image) -> float:
    """Edges of both sources preserved, weighted by their strength."""
    edge_f, edge_a, edge_b = sobel(f), sobel(a), sobel(b)
    top = preserved(edge_f, edge_a) * edge_a[0] + preserved(edge_f, edge_b) * edge_b[0]
    return float(np.sum(top) / np.sum(edge_a[0] + edge_b[0]))


def tdfusion(f: Image, a: Image, b: Image) -> dict[str, float]:
    """The six metrics of TDFusion's tables."""
    return {
        "EN": entropy(f),
        "SF": spatial_frequency(f),
        "SCD": scd(f, a, b),
        "VIF": (vif(f, a) + vif(f, b)) / 2,
        "Qabf": qabf(f, a, b),
        "SSIM": (ssim(f, a) + ssim(f, b)) / 2,
    }


def twelve(f: Image, a: Image, b: Image) -> dict[str, float]:
    """All twelve that have outside reference values, with means over the two sources."""
    return tdfusion(f, a, b) | {
        "SD": standard_deviation(f),
        "AG": average_gradient(f),
        "MI": (mutual_information(f, a) + mutual_information(f, b)) / 2,
        "CC": (correlation(f, a) + correlation(f, b)) / 2,
        "MSE": mean_squared_error(f, a, b),
        "PSNR": psnr(f, a, b),
    }
