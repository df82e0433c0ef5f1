"""Fusion metrics as public toolboxes define them, formula by formula: NumPy and SciPy, one pair at a time.

Written from the papers and from descriptions of what the evaluators compute (border, windows, constants), and sharing
nothing with `tectum.metrics`: the oracle of its tests on rendered scenes. On real pairs these functions equal what the
evaluators print to 1e-12. Images are float64 (H,W) on 0..255, 8-bit levels; a is the first source.

>>> import numpy as np
>>> x = np.arange(4096.0).reshape(64, 64) % 251
>>> round(qcb(x, x, x), 6), qcv(x, x, x), round(qw(x, x, x), 6), round(fmi(x, x, x, "edge"), 6)
(1.0, 0.0, 1.0, 1.0)
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import correlate1d, uniform_filter

Image = NDArray[np.float64]
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def gaussian_means(x: Image, size: int, sigma: float) -> Image:
    """Means under a Gaussian window, windows inside the image."""
    offsets = np.arange(size) - (size - 1) / 2
    w = np.exp(-(offsets**2) / (2 * sigma**2))
    w, h = w / w.sum(), size // 2
    return np.asarray(correlate1d(correlate1d(x, w, 0), w, 1)[h:-h, h:-h])


def halve(x: Image) -> Image:
    """Means over 2 x 2 pixels; an odd last row or column stands twice."""
    x = np.pad(x, ((0, x.shape[0] % 2), (0, x.shape[1] % 2)), mode="symmetric")
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def differences(p: Image, middle: float) -> tuple[Image, Image]:
    """Horizontal and vertical gradient of a padded image: middle = 2 is Sobel's filter, 1 Prewitt's."""
    down, along = p[:-2] + middle * p[1:-1] + p[2:], p[:, :-2] + middle * p[:, 1:-1] + p[:, 2:]
    return down[:, 2:] - down[:, :-2], along[2:] - along[:-2]


def stretch(x: Image) -> Image:
    """From the smallest and largest value to 0..255, rounded."""
    low, high = x.min(), x.max()
    return np.floor((x - low) / (high - low) * 255 + 0.5) if high > low else x


# ---- similarity ------------------------------------------------------------------------------------------------------


def ssim_terms(f: Image, x: Image) -> tuple[Image, Image]:
    """Luminance and contrast-structure of each 11 x 11 Gaussian window."""

    def mean(y: Image) -> Image:
        return gaussian_means(y, 11, 1.5)

    mf, mx = mean(f), mean(x)
    vf, vx, cov = mean(f * f) - mf**2, mean(x * x) - mx**2, mean(f * x) - mf * mx
    return (2 * mf * mx + _C1) / (mf**2 + mx**2 + _C1), (2 * cov + _C2) / (vf + vx + _C2)


def ssim_gaussian(f: Image, a: Image, b: Image) -> float:
    """Mean over both sources."""
    return float(np.mean([np.mean(np.multiply(*ssim_terms(f, x))) for x in (a, b)]))


def ms_ssim(f: Image, a: Image, b: Image) -> float:
    """Mean over both sources of the multi-scale form."""

    def against(f: Image, x: Image) -> float:
        value = 1.0
        for scale, beta in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333), 1):
            luminance, cs = ssim_terms(f, x)
            value *= max(float(np.mean(luminance * cs if scale == 5 else cs)), 0.0) ** beta
            f, x = halve(f), halve(x)
        return value

    return (against(f, a) + against(f, b)) / 2


def mef_ssim(f: Image, a: Image, b: Image, scales: int = 3) -> float:
    """Similarity to the best of both exposures, of uniform windows, compared under the Gaussian."""
    betas = np.array((0.0448, 0.2856, 0.3001)) / 0.6305 if scales == 3 else (1.0,)
    value = 1.0
    for beta in betas:
        value *= max(_mef_similarity(f, a, b), 0.0) ** beta
        f, a, b = halve(f), halve(a), halve(b)
    return value


def _mef_similarity(f: Image, a: Image, b: Image) -> float:
    eps = np.finfo(float).eps

    def uniform(y: Image) -> Image:
        return np.asarray(uniform_filter(y, 11)[5:-5, 5:-5])

    def gauss_cov(x: Image, y: Image) -> Image:
        means = gaussian_means(x, 11, 1.5) * gaussian_means(y, 11, 1.5)
        return np.asarray(gaussian_means(x * y, 11, 1.5) - means)

    ma, mb = uniform(a), uniform(b)
    aa, bb = (121 * np.maximum(uniform(x * x) - m * m, 0) for x, m in ((a, ma), (b, mb)))
    ab = 121 * (uniform(a * b) - ma * mb)
    lengths = [np.sqrt(aa), np.sqrt(bb)]
    contrasts = [length + 1e-3 for length in lengths]
    agreement = (np.sqrt(np.maximum(aa + bb + 2 * ab, 0)) + eps) / (lengths[0] + lengths[1] + eps)
    p = np.minimum(np.tan(np.pi / 2 * np.clip(agreement, eps, 1 - eps)), 10)
    shares = [(c / 11) ** p + eps for c in contrasts]
    wa, wb = (s / (shares[0] + shares[1]) / c for s, c in zip(shares, contrasts, strict=True))
    norm = np.sqrt(np.maximum(wa**2 * aa + wb**2 * bb + 2 * wa * wb * ab, 0))
    scale = np.where(norm > 0, np.maximum(*contrasts) / np.where(norm > 0, norm, 1), 1)
    wa, wb = wa * scale, wb * scale
    var = wa**2 * gauss_cov(a, a) + wb**2 * gauss_cov(b, b) + 2 * wa * wb * gauss_cov(a, b)
    cov = wa * gauss_cov(a, f) + wb * gauss_cov(b, f)
    return float(np.mean((2 * cov + _C2) / (var + gauss_cov(f, f) + _C2)))


def viff(f: Image, a: Image, b: Image) -> float:
    """Visual information fidelity for fusion: each block from the source with the smaller gain, b where equal."""
    noise, value = 0.005 * 255**2, 0.0
    for scale, (size, weight) in enumerate(zip((17, 9, 5, 3), (1 / 2.15, 0, 0.15 / 2.15, 1 / 2.15), strict=True)):

        def mean(x: Image, size: int = size) -> Image:
            return gaussian_means(x, size, size / 5)

        if scale:
            f, a, b = (mean(x)[::2, ::2] for x in (f, a, b))
        mf = mean(f)
        vf = np.maximum(mean(f * f) - mf**2, 0)
        gains, vids, vinds = [], [], []
        for x in (a, b):
            mx = mean(x)
            vx, cov = np.maximum(mean(x * x) - mx**2, 0), mean(f * x) - mf * mx
            vx = np.where(vx < 1e-10, 0, vx)
            gain = np.where((vx == 0) | (vf < 1e-10) | (cov < 0), 0, cov / (vx + 1e-10))
            rest = np.maximum(np.where(vf < 1e-10, 0, vf - gain * cov), 1e-10)
            gains.append(gain)
            vids.append(np.log10(1 + gain**2 * vx / (rest + noise)))
            vinds.append(np.log10(1 + vx / noise))
        of_a = gains[0] < gains[1]
        value += weight * (np.where(of_a, *vids).mean() + 1e-7) / (np.where(of_a, *vinds).mean() + 1e-7)
    return float(value)


def _piella(f: Image, a: Image, b: Image) -> tuple[Image, Image]:
    """Quality and weight of each window."""
    saliencies, qualities = [], []
    for x in (a, b):
        variance = gaussian_means(x * x, 11, 1.5) - gaussian_means(x, 11, 1.5) ** 2
        saliencies.append(np.where(variance > 1e-9, variance, 0))
        qualities.append(np.multiply(*ssim_terms(f, x)))
    total = saliencies[0] + saliencies[1]
    share = np.where(total > 0, saliencies[0] / np.where(total > 0, total, 1), 0.5)
    return share * qualities[0] + (1 - share) * qualities[1], np.maximum(*saliencies)


def qs(f: Image, a: Image, b: Image) -> float:
    """Piella's index, all windows alike."""
    return float(_piella(f, a, b)[0].mean())


def qw(f: Image, a: Image, b: Image) -> float:
    """Piella's index, windows weighted by saliency."""
    quality, weight = _piella(f, a, b)
    return float((quality * weight).sum() / weight.sum())


def qw_edges(f: Image, a: Image, b: Image) -> float:
    """The same of Prewitt edge images, zeros outside."""
    return qw(*(np.hypot(*differences(np.pad(x, 1), 1)) for x in (f, a, b)))


# ---- perception ------------------------------------------------------------------------------------------------------


def _filtered(x: Image, transfer: Callable[[Image], Image], cycles: float) -> Image:
    """An image whose spectrum is multiplied by a function of r, `cycles` periods per image being r = 1."""
    v, u = (np.fft.fftfreq(side) * side / cycles for side in x.shape)
    return np.asarray(np.fft.ifft2(np.fft.fft2(x) * transfer(np.hypot(v[:, None], u))).real)


def qcv(f: Image, a: Image, b: Image) -> float:
    """Chen and Varshney."""
    f, a, b = stretch(f), stretch(a), stretch(b)
    rows, columns = (-(-side // 16) for side in f.shape)

    def regions(x: Image) -> Image:
        x = np.pad(x, ((0, rows * 16 - x.shape[0]), (0, columns * 16 - x.shape[1])))
        return x.reshape(rows, 16, columns, 16).transpose(0, 2, 1, 3)

    above = below = 0.0
    for x in (a, b):
        saliency = (regions(np.hypot(*differences(np.pad(x, 1), 2))) ** 5).sum((2, 3))
        seen = _filtered(x - f, lambda r: 2.6 * (0.0192 + 0.144 * r) * np.exp(-((0.144 * r) ** 1.1)), 4)
        above += (saliency * (regions(seen) ** 2).mean((2, 3))).sum()
        below += saliency.sum()
    return float(above / below)


def qcb(f: Image, a: Image, b: Image) -> float:
    """Chen and Blum."""
    offsets = np.arange(-15, 16)

    def smooth(x: Image, s: float) -> Image:
        w = np.exp(-(offsets**2) / (2 * s * s)) / (math.sqrt(2 * math.pi) * s)
        return np.asarray(correlate1d(correlate1d(x, w, 0, mode="constant"), w, 1, mode="constant"))

    def contrast(x: Image) -> Image:
        x = _filtered(stretch(x), lambda r: np.exp(-((r / 15.3870) ** 2)) - 0.7622 * np.exp(-((r / 1.3456) ** 2)), 15)
        c = np.abs(smooth(x, 2) / smooth(x, 4) - 1)
        return np.asarray(c**3 / (c**2 + 0.0001))

    cf, ca, cb = contrast(f), contrast(a), contrast(b)
    share = ca**2 / (ca**2 + cb**2)
    kept = [np.minimum(c, cf) / np.maximum(c, cf) for c in (ca, cb)]
    return float((share * kept[0] + (1 - share) * kept[1]).mean())


# ---- edges and features ----------------------------------------------------------------------------------------------


def nabf(f: Image, a: Image, b: Image, scale: float = 1.0) -> float:
    """Fusion artefacts; scale = 1 / 255 is the call on images in [0,1]."""

    def edges(x: Image) -> tuple[Image, Image]:
        p = np.pad(x * scale if scale == 1 else x / 255, 1, mode="reflect")
        sx, sy = differences(p, 2)[0] / 8, p[2:] - p[:-2]
        sy = (sy[:, :-2] + 2 * sy[:, 1:-1] + sy[:, 2:]) / 8
        angle = np.where(sx == 0, np.pi / 2, np.arctan(sy / np.where(sx == 0, 1, sx)))
        return np.sqrt(sx * sx + sy * sy), angle

    (gf, angle), sources = edges(f), [edges(a), edges(b)]
    new = (gf > sources[0][0]) & (gf > sources[1][0])
    above = below = 0.0
    for g, other in sources:
        ratio = np.minimum(gf, g) / np.maximum(np.maximum(gf, g), 1e-300)
        alignment = np.abs(np.abs(angle - other) - np.pi / 2) * 2 / np.pi
        in_strength = 0.9999 / (1 + np.exp(-19 * (ratio - 0.5)))
        quality = np.sqrt(in_strength * 0.9995 / (1 + np.exp(-22 * (alignment - 0.5))))
        weight = np.where(g >= 2, g**1.5, 0.001)
        above += ((1 - quality) * weight * new).sum()
        below += weight.sum()
    return float(above / below)


def find_edges(x: Image) -> Image:
    """Sobel edges, thinned, 1 or 0."""
    gx, gy = (np.abs(d) / 8 for d in differences(np.pad(x, 1, mode="edge"), 2))
    g = gx**2 + gy**2
    p = np.pad(g, 1)
    upright = (gx >= gy) & (p[1:-1, :-2] <= g) & (g > p[1:-1, 2:])
    level = (gy >= gx) & (p[:-2, 1:-1] <= g) & (g > p[2:, 1:-1])
    return np.asarray(((g > 4 * g.mean()) & (upright | level)).astype(float))


FEATURES: dict[str, Callable[[Image], Image]] = {
    "edge": find_edges,
    "gradient": lambda x: np.gradient(x, axis=1),
    "pixel": lambda x: x,
    "dct": lambda x: dctn(x, norm="ortho"),
}


def fmi(f: Image, a: Image, b: Image, feature: str) -> float:
    """Feature mutual information, mean over both sources; one window at a time."""
    f, a, b = (FEATURES[feature](x) for x in (f, a, b))
    total = 0.0
    num = (f.shape[0] - 2) * (f.shape[1] - 2)
    for i in range(f.shape[0] - 2):
        for j in range(f.shape[1] - 2):
            wf, wa, wb = (x[i : i + 3, j : j + 3].ravel(order="F") for x in (f, a, b))
            rescaled = (wf - wf.min()) / (np.ptp(wf) or 1.0)
            total += _share(wf, wa, wf) + _share(wf, wb, rescaled)
    return total / (2 * num)


def _share(wf: Image, wx: Image, seen: Image) -> float:
    """2 I / (H + H) of two windows."""
    if np.ptp(wf) == 0 and np.ptp(wx) == 0:
        return 1.0
    p, q = (y / y.sum() for y in (w - w.min() if np.ptp(w) else np.ones(9) for w in (wf, wx)))
    entropies = _entropy(p) + _entropy(q)
    if entropies < 1e-12:
        return float(np.array_equal(seen, wx))
    cp, cq, at = np.cumsum(p), np.cumsum(q), np.arange(9)
    dp, dq = p - p.mean(), q - q.mean()
    norm = math.sqrt((dp @ dp) * (dq @ dq)) if np.ptp(p) and np.ptp(q) else 0.0
    rho = float(dp @ dq / norm) if norm else 0.0
    bound = np.minimum(cp[:, None], cq) if rho > 0 else np.maximum(cp[:, None] + cq - 1, 0)
    covariance = float((bound - np.outer(cp, cq)).sum())
    sp, sq = (math.sqrt(max(at**2 @ d - (at @ d) ** 2, 0)) for d in (p, q))
    phi = rho * sp * sq / covariance if rho and sp and sq else 0.0
    mass = np.diff(np.diff(bound, axis=0, prepend=0), axis=1, prepend=0)
    return float(2 * (entropies - _entropy(phi * mass + (1 - phi) * np.outer(p, q))) / entropies)


def _entropy(p: Image) -> float:
    """-sum p log2 |p|: some p are negative where the correlation exceeds its bound."""
    p = p[np.abs(p) > 1e-15]
    return float(-(p * np.log2(np.abs(p))).sum())


# ---- statistics of VIFB ----------------------------------------------------------------------------------------------


def average_gradient_vifb(f: Image) -> float:
    """Central differences, divided by (H-1) (W-1)."""
    gy, gx = np.gradient(f)
    return float(np.sqrt((gx**2 + gy**2) / 2).sum() / ((f.shape[0] - 1) * (f.shape[1] - 1)))


def spatial_frequency_vifb(f: Image) -> float:
    """Both sums of squared differences divided by H W."""
    return float(np.sqrt((np.diff(f, axis=0) ** 2).sum() / f.size + (np.diff(f, axis=1) ** 2).sum() / f.size))


def rmse_vifb(f: Image, a: Image, b: Image) -> float:
    """sqrt(sum of squared errors) / (H W), mean over both sources."""
    return float(np.mean([np.sqrt(((f - x) ** 2).sum()) / f.size for x in (a, b)]))


def psnr_vifb(f: Image, a: Image, b: Image) -> float:
    """With that in the place of the mean squared error."""
    return 10 * math.log10(255**2 / rmse_vifb(f, a, b))


# ---- histograms ------------------------------------------------------------------------------------------------------


def counts(x: Image) -> Image:
    """The parts of the 256 levels."""
    return np.bincount(x.astype(int).ravel(), minlength=256) / x.size


def joint_counts(x: Image, y: Image) -> Image:
    """The parts of pairs of levels, (256,256)."""
    return np.bincount((x * 256 + y).astype(int).ravel(), minlength=65536).reshape(256, 256) / x.size


def cross_entropy(f: Image, a: Image, b: Image) -> float:
    """VIFB's CE: mean of both divergences in bits, over the levels that both images have."""
    q, total = counts(f), 0.0
    for p in (counts(a), counts(b)):
        for level in range(256):
            if p[level] > 0 and q[level] > 0:
                total += p[level] * math.log2(p[level] / q[level])
    return total / 2


def qncie(f: Image, a: Image, b: Image) -> float:
    """1 - entropy, to base 256, of the eigenvalues of the nonlinear correlation matrix of a, b, f."""

    def h(p: Image) -> float:
        p = p[p > 0]
        return float(-(p * np.log(p)).sum() / math.log(256))

    images = (a, b, f)
    r = np.eye(3)
    for i in range(3):
        for j in range(3):
            if i != j:
                r[i, j] = h(counts(images[i])) + h(counts(images[j])) - h(joint_counts(images[i], images[j]))
    eigenvalues = np.linalg.eigvalsh(r)
    return float(1 + sum(x / 3 * math.log(x / 3, 256) for x in eigenvalues if x > 0))


def tsallis(f: Image, a: Image, b: Image, form: str, released: bool) -> float:
    """Nava's and Cvejic's Tsallis information; as the evaluators have it: stretched, marginals exchanged."""
    q = 0.43137 if form == "nava" else 1.85
    if released:
        f, a, b = (stretch(x) for x in (f, a, b))

    def shared(x: Image, y: Image) -> float:
        p = joint_counts(x, y)
        px, py = p.sum(1), p.sum(0)
        total = 0.0
        for i, j in zip(*np.nonzero(p), strict=True):
            product = px[j] * py[i] if released else px[i] * py[j]
            if product > 0:
                total += p[i, j] ** q / product ** (q - 1)
        return (1 - total) / (1 - q)

    def entropy(x: Image) -> float:
        p = counts(x)
        p = p[p > 0]
        return float((-(p * np.log2(p)).sum()) ** q if released else (1 - (p**q).sum()) / (q - 1))

    total = shared(a, f) + shared(b, f)
    if form == "cvejic":
        return total
    return total / (entropy(a) + entropy(b) + (1 if released else -1) * shared(a, b))


# ---- sharpness and edges ---------------------------------------------------------------------------------------------


def edge_intensity(f: Image) -> float:
    """Mean Sobel gradient, border pixels repeated."""
    x = np.pad(f, 1, "edge")
    gx = x[:, 2:] - x[:, :-2]
    gy = x[2:] - x[:-2]
    return float(np.hypot(gx[:-2] + 2 * gx[1:-1] + gx[2:], gy[:, :-2] + 2 * gy[:, 1:-1] + gy[:, 2:]).mean())


def qsf(f: Image, a: Image, b: Image) -> float:
    """Zheng's ratio of extended spatial frequencies."""
    steps = (((0, 1), 1.0), ((1, 0), 1.0), ((1, 1), math.sqrt(0.5)), ((1, -1), math.sqrt(0.5)))
    own = wanted = 0.0
    for (down, across), weight in steps:
        pairs = []
        for x in (f, a, b):
            moved = np.full_like(x, np.nan)
            rows = slice(0, x.shape[0] - down)
            if across >= 0:
                moved[rows, : x.shape[1] - across] = x[down:, across:] - x[rows, : x.shape[1] - across]
            else:
                moved[rows, -across:] = x[down:, :across] - x[rows, -across:]
            pairs.append(np.nan_to_num(moved))
        own += weight * (pairs[0] ** 2).sum() / f.size
        wanted += weight * (np.maximum(np.abs(pairs[1]), np.abs(pairs[2])) ** 2).sum() / f.size
    return math.sqrt(own) / math.sqrt(wanted) - 1


def qg(f: Image, a: Image, b: Image) -> float:
    """Liu's variant of Xydeas and Petrovic: zeros outside, a mean of local ratios, 1e-5 where 0 would divide."""

    def edges(x: Image) -> tuple[Image, Image]:
        x = np.pad(x, 1)
        gx = x[:, 2:] - x[:, :-2]
        gy = x[2:] - x[:-2]
        gx, gy = gx[:-2] + 2 * gx[1:-1] + gx[2:], gy[:, :-2] + 2 * gy[:, 1:-1] + gy[:, 2:]
        g = np.sqrt(gx**2 + gy**2)
        return np.where(g == 0, 1e-5, g), np.arctan(gy / np.where(gx == 0, 1e-5, gx))

    gf, of = edges(f)
    top, bottom = np.zeros_like(f), np.zeros_like(f)
    for x in (a, b):
        g, o = edges(x)
        strength = np.where(g > gf, gf / g, g / gf)
        angle = np.abs(np.abs(o - of) - math.pi / 2) * 2 / math.pi
        q = 1 / (1 + np.exp(-10 * (strength - 0.5))) / (1 + np.exp(-20 * (angle - 0.75)))
        top, bottom = top + q * g, bottom + g
    return float((top / bottom).mean())


def qm(f: Image, a: Image, b: Image) -> float:
    """Wang and Liu's metric of Haar bands at two scales, the three bands added."""
    value = 1.0
    for exponent in (2 / 3, 1 / 3):
        bands = []
        for x in (f, a, b):
            h, w = x.shape[0] // 2, x.shape[1] // 2
            block = x[: 2 * h, : 2 * w].reshape(h, 2, w, 2)
            p, q, r, s = block[:, 0, :, 0], block[:, 0, :, 1], block[:, 1, :, 0], block[:, 1, :, 1]
            bands.append(((p + q + r + s) / 2, (p - q + r - s) / 2, (p + q - r - s) / 2, (p - q - r + s) / 2))
        top = bottom = 0.0
        for of_x in bands[1:]:
            kept = sum(np.exp(-np.abs(d - e)) for d, e in zip(of_x[1:], bands[0][1:], strict=True))
            energy = sum(d**2 for d in of_x[1:])
            top, bottom = top + (kept * energy).sum(), bottom + energy.sum()
        value *= (top / bottom) ** exponent
        f, a, b = (x[0] for x in bands)
    return float(value)


# ---- similarity ------------------------------------------------------------------------------------------------------


def _universal(x: Image, y: Image) -> tuple[Image, Image, Image, Image]:
    """The universal index over 7x7 Gaussian windows, both variances and the covariance; flat windows as limits."""
    mx, my = gaussian_means(x, 7, 1.5), gaussian_means(y, 7, 1.5)
    vx, vy = gaussian_means(x * x, 7, 1.5) - mx**2, gaussian_means(y * y, 7, 1.5) - my**2
    vx, vy = np.where(vx > 1e-6, vx, 0), np.where(vy > 1e-6, vy, 0)
    cov = np.where((vx > 0) & (vy > 0), gaussian_means(x * y, 7, 1.5) - mx * my, 0)
    with np.errstate(all="ignore"):
        structure = np.where(vx + vy == 0, 1, 2 * cov / (vx + vy))
        luminance = np.where(mx**2 + my**2 == 0, 1, 2 * mx * my / (mx**2 + my**2))
    return structure * luminance, vx, vy, cov


def qy(f: Image, a: Image, b: Image) -> float:
    """Yang's metric; windows in which both sources are flat are left out."""
    (qa, va, _, _), (qb, vb, _, _), (qab, _, _, _) = _universal(a, f), _universal(b, f), _universal(a, b)
    seen = va + vb > 0
    share = va[seen] / (va + vb)[seen]
    mixed = share * qa[seen] + (1 - share) * qb[seen]
    return float(np.where(qab[seen] >= 0.75, mixed, np.maximum(qa, qb)[seen]).mean())


def qc(f: Image, a: Image, b: Image) -> float:
    """Cvejic's metric by the paper; windows in which both sources are flat are left out."""
    (qa, va, _, ca), (qb, vb, _, cb) = _universal(a, f), _universal(b, f)
    seen = va + vb > 0
    total = ca + cb
    share = np.where(total == 0, 0.5, ca / np.where(total == 0, 1, total)).clip(0, 1)
    return float((share * qa + (1 - share) * qb)[seen].mean())
