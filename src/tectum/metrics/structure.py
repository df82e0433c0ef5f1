"""Structural similarity (SSIM) and visual information fidelity (VIF), of statistics of windows.

    SSIM(F,S) = mean (2 m_F m_S + c1) (2 s_FS + c2) / ((m_F^2 + m_S^2 + c1) (s_F^2 + s_S^2 + c2))
    VIF(F,S)  = sum log(1 + g^2 s_S^2 / (s_V^2 + n)) / sum log(1 + s_S^2 / n),  g = s_FS / s_S^2, s_V^2 = s_F^2 - g s_FS

of means m, variances s^2 and covariances s_FS in windows of the fused image F and one source S, on the scale 0..255.
VIF sums over windows and four scales; n = 2 is the variance of the eye's own noise.

Reference:
    Image quality assessment: from error visibility to structural similarity. Wang, Bovik, Sheikh and Simoncelli,
    IEEE Transactions on Image Processing 13(4), 2004. https://doi.org/10.1109/TIP.2003.819861
    Image information and visual quality. Sheikh and Bovik, IEEE Transactions on Image Processing 15(2), 2006.
    https://doi.org/10.1109/TIP.2005.859378
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tectum.errors import UserError
from tectum.metrics.local_statistics import GaussianWindow, UniformWindow, iterate_local_statistics
from tectum.metrics.metric import Reduction, SourceMetric
from tectum.metrics.windows import Workspace, nans, reuse, zeros

_NOISE = 2.0
"""Variance of the eye's noise in VIF, in squared grey levels."""
_FLAT = 1e-10
"""A window of less variance is flat."""


class SSIM(SourceMetric):
    """Structural similarity to a source; the mean over both by default.

    Range [-1, 1] for the mean, [-2, 2] for the sum; higher is better; 1 for a copy.
    Variant: 7x7 uniform window, sample covariance (n - 1), only windows inside the image, K1 = 0.01, K2 = 0.03: that of
    scikit-image and of the evaluators in Python, equal to 4e-14. The release of the paper, and with it the evaluators
    in MATLAB (VIFB's, as a sum), has an 11x11 Gaussian window of deviation 1.5 and population covariance:
    `window="gaussian"`, equal to 1e-13. NaN for an image smaller than the window.

    Args:
        reduction: "mean" or "sum" over the sources.
        data_range: R in c1 = (0.01 R)^2 and c2 = (0.03 R)^2. Images are taken on 0..255, so 255 is right. Many
            published tables come from a library's silent default of 2 on such images, and are a tenth to a half lower.
        window: "uniform" or "gaussian".
        truncate: cut the images to the 8-bit level below first, as evaluators do that cast them to uint8; then it is
            not differentiable.

    >>> x = torch.rand(1, 1, 16, 16)
    >>> round(float(SSIM()(x, x, x)), 6)
    1.0
    """

    symbol, title = "SSIM", "structural similarity"
    bounds = (-1.0, 1.0)
    source = "Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Processing 13(4), 2004"

    def __init__(
        self,
        *,
        reduction: Reduction = "mean",
        data_range: float = 255.0,
        window: Literal["uniform", "gaussian"] = "uniform",
        truncate: bool = False,
    ) -> None:
        if window not in ("uniform", "gaussian"):
            raise UserError(f"window must be 'uniform' or 'gaussian', got {window!r}")
        if not data_range > 0:
            raise UserError(f"data_range must be positive, got {data_range}; images are on 0..255, so 255 fits them")
        super().__init__(reduction=reduction)
        self.data_range, self.window, self.truncate = data_range, window, truncate
        self.is_differentiable = not truncate

    def per_source(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        height, width = fused.shape[2:]
        uniform = self.window == "uniform"
        window = UniformWindow() if uniform else GaussianWindow(11, 1.5, device=fused.device)
        if min(height, width) < window.size:
            return nans(2, len(fused), like=fused)
        c1, c2 = (0.01 * self.data_range) ** 2, (0.03 * self.data_range) ** 2
        workspace, sample = Workspace(fused, a, b), 49 / 48 if uniform else 1.0
        if self.truncate:
            fused, a, b = (truncate_to_levels(x) for x in (fused, a, b))
        sums = zeros(2, len(fused), like=fused)
        for m in iterate_local_statistics(fused[:, 0], a[:, 0], b[:, 0], window, workspace):
            shape = m.cov.shape
            # (2 m_F m_S + c1) (2 s_FS + c2)
            similarity = torch.mul(m.mean_sources, m.mean_fused, out=workspace("top", shape)).mul_(2).add_(c1)
            similarity.mul_(torch.mul(m.cov, 2 * sample, out=reuse(m.cov)).add_(c2))
            # / (m_F^2 + m_S^2 + c1)
            squares = torch.mul(m.mean_fused, m.mean_fused, out=reuse(m.mean_fused))
            bottom = torch.mul(m.mean_sources, m.mean_sources, out=reuse(m.mean_sources))
            bottom = torch.add(bottom, squares, out=workspace("bottom", shape)).add_(c1)
            similarity.div_(bottom)
            # / (s_F^2 + s_S^2 + c2)
            bottom = torch.add(m.var_sources, m.var_fused, out=reuse(bottom)).mul_(sample).add_(c2)
            sums += similarity.div_(bottom).sum((0, 3))
        return sums / ((height - window.size + 1) * (width - window.size + 1))


def truncate_to_levels(y: Tensor) -> Tensor:
    """Truncates values in [0,1] to the 8-bit level below.

    >>> (truncate_to_levels(torch.tensor([0.1, 126.5 / 255, 1.0])) * 255).tolist()
    [25.0, 126.0, 255.0]
    """
    return y.mul(255).add_(1e-4).floor_().div_(255)  # float32 may hold a level that is meant to be whole a hair below


class VIF(SourceMetric):
    """Visual information fidelity in the pixel domain (vifp), against a source; the mean over both by default.

    Range [0, inf); higher is read as better; a copy has 1, a contrast-enhanced copy more.
    Variant: four scales, Gaussian windows of 17, 9, 5 and 3 with a sigma of a fifth of that, only windows inside the
    image, every second pixel kept between scales, noise variance 2. NaN for a constant source (0/0; one published
    evaluator says 1), and for images less than 41 pixels high or wide, which have no fourth scale.

    Not Han's VIFF, although some tables call it so. It can be gamed: an enhanced copy of one source has more than 1
    against it, and where a source is nearly flat, detail from elsewhere adds to the sum above and hardly to the one
    below.

    >>> x = torch.rand(1, 1, 48, 48)
    >>> round(float(VIF()(x, x, x)), 6)
    1.0
    """

    symbol, title = "VIF", "visual information fidelity"
    source = "Sheikh and Bovik, IEEE Trans. Image Processing 15(2), 2006"

    def per_source(self, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
        if min(fused.shape[2:]) < 41:
            return nans(2, len(fused), like=fused)
        workspace, images = Workspace(fused, a, b), [x[:, 0] for x in (fused, a, b)]
        above, below = zeros(2, len(fused), like=fused), zeros(2, len(a), like=fused)
        for size in (17, 9, 5, 3):
            if size < 17:
                window = GaussianWindow(size, size / 5, step=2, device=fused.device)
                images = [window.downsample(x, workspace) for x in images]
            window = GaussianWindow(size, size / 5, device=fused.device)
            for m in iterate_local_statistics(images[0], images[1], images[2], window, workspace):
                var_s = F.threshold(m.var_sources, _FLAT, 0.0, inplace=workspace.reuses)
                cov = m.cov.clamp_(min=0)
                gain = torch.div(cov, var_s + _FLAT, out=workspace("gain", cov.shape))
                # s_V^2 = s_F^2 - g s_FS
                explained = torch.mul(cov, gain, out=reuse(cov))
                noise = torch.sub(m.var_fused, explained, out=reuse(cov)).clamp_(min=_FLAT).add_(_NOISE)
                signal = torch.mul(gain, gain, out=reuse(gain)).mul_(var_s)
                above += _sum_logs(signal.div_(noise))
                below += _sum_logs(torch.div(var_s, _NOISE, out=reuse(var_s)))
        return above / below.masked_fill(below == 0, float("nan"))


def _sum_logs(x: Tensor) -> Tensor:
    """Sum of log(1 + x) over rows and columns of (rows, 2, M, columns), by way of products over the rows; overwrites x.

    A factor is at most 1 + 255^2 / 4 / _NOISE, so that of 32 rows there is no overflow.
    """
    return x.add_(1).prod(0).log().sum(-1)
