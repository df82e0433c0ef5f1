"""Fusion of camera frames: 8-bit arrays in, 8-bit arrays out, with OpenCV around the network.

    Y    = grey of the visible frame
    y    = F(Y, infrared)                                  the fuser, luminance only
    rgb' = rgb + (y - Y)                                   the colour differences stay

and where a channel would leave 0..255, the saturation falls as in `tectum.color.ycbcr_to_rgb`. The results are those
of `tectum.fuse` to 1 of 255, for a tenth of the time around the network: nothing is converted that need not be, and
no plane of chroma is made. `tectum.models.swift` itself runs in OpenCV but for its small network, by the same sums.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from tectum.color import rgb_to_ycbcr, to_levels, ycbcr_to_rgb
from tectum.errors import UserError
from tectum.models.swift import LEVELS, Swift, missing_px
from tectum.nn.modes import evaluation_mode
from tectum.nn.stages import find_device, fuse_tensors
from tectum.pretrained.loading import select

Array = np.ndarray[Any, np.dtype[Any]]
_ROUND_UP = np.float32(0.499)
"""Added before rounding to the nearest level, to round up what is not a level but for float32's errors."""


class FrameFuser:
    """Fuser of 8-bit frames that are registered: RGB (H,W,3) and infrared (H,W) -> RGB (H,W,3), uint8.

    Args:
        system: name of a system, or a network of your own.
        weights: packaged weights or a file; None takes the system's default.
        device: auto takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: the system or its weights are not there. When called: frames of another form.

    >>> fuser = FrameFuser("average")
    >>> fuser(np.full((4, 6, 3), 40, np.uint8), np.full((4, 6), 80, np.uint8))[0, 0].tolist()
    [60, 60, 60]
    """

    def __init__(self, system: str | nn.Module = "swift", weights: str | None = None, *, device: str = "auto") -> None:
        if isinstance(system, nn.Module):
            self.network = system
        else:
            self.network = select(system, weights).load(find_device(device))
        if isinstance(self.network, Swift):
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its layers: a tenth less time
        self._buffers = _Buffers()
        self._device = str(next(self.network.parameters(), torch.empty(0)).device)

    def __call__(self, visible: Array, infrared: Array) -> Array:
        """Fuse a pair of frames; a grey visible one (H,W) gives a grey result."""
        import cv2

        _check_frames(visible, infrared)
        self._buffers.begin()
        grey, infrared = self._buffers.copy(visible), self._buffers.copy(infrared)
        if visible.ndim == 3:
            grey = cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY, dst=self._buffers.take(infrared.shape))
        with evaluation_mode(self.network), torch.inference_mode():
            if isinstance(self.network, Swift) and self._device == "cpu":
                fused = _run_swift(self.network, grey, infrared, self._buffers)
            else:
                a, b = (torch.from_numpy(x)[None, None].div(255) for x in (grey, infrared))
                fused = fuse_tensors(self.network, a, b)[0, 0].mul(255).numpy()
        if visible.ndim == 2:
            return cv2.convertScaleAbs(fused)
        return _restore_colour(visible, grey, fused, self._buffers)


def _check_frames(visible: Array, infrared: Array) -> None:
    """Refuse frames that are not 8-bit RGB or grey and 8-bit grey of one size."""
    is_visible = visible.dtype == np.uint8 and (visible.ndim == 2 or (visible.ndim == 3 and visible.shape[2] == 3))
    if not (is_visible and infrared.dtype == np.uint8 and infrared.ndim == 2):
        raise UserError(
            "frames must be uint8, visible (H,W,3) or (H,W) and infrared (H,W), got "
            f"{visible.dtype} {visible.shape} and {infrared.dtype} {infrared.shape}; convert them first"
        )
    if visible.shape[:2] != infrared.shape:
        raise UserError(
            f"both frames must share one size, got {visible.shape[1]}x{visible.shape[0]} (visible) and "
            f"{infrared.shape[1]}x{infrared.shape[0]} (infrared); register or resize them first"
        )


def _run_swift(network: Swift, a: Array, b: Array, buffers: "_Buffers") -> Array:
    """`Swift.forward` of two grey frames (H,W), float32 in 0..255; the result is not limited to 0..255."""
    import cv2

    height, width = a.shape
    down, right = missing_px(height), missing_px(width)
    if down or right:
        a, b = (cv2.copyMakeBorder(x, 0, down, 0, right, cv2.BORDER_REPLICATE) for x in (a, b))
    of_a, of_b = _split(a, buffers), _split(b, buffers)
    size = of_a[-1].shape[::-1]
    strengths = [
        cv2.resize(np.abs(part, out=buffers.take(part.shape)), size, interpolation=cv2.INTER_AREA)
        * np.float32(10 / 255)
        for pair in zip(of_a[:-1], of_b[:-1], strict=True)
        for part in pair
    ]
    features = np.stack([*strengths, *(x[-1] * np.float32(1 / 255) - np.float32(0.5) for x in (of_a, of_b))])
    gains = network.gains(torch.from_numpy(features)[None])[0].numpy()
    fused: Array = gains[-2] * of_a[-1] + gains[-1] * of_b[-1]
    for level in reversed(range(LEVELS)):
        fused = _enlarge(fused, buffers.take(of_a[level].shape))
        gain = buffers.take(fused.shape)
        for part, of_part in zip((of_a[level], of_b[level]), gains[2 * level :], strict=False):
            cv2.multiply(part, _enlarge(of_part, gain), dst=gain)
            cv2.add(fused, gain, dst=fused)
    return fused[:height, :width]


def _split(x: Array, buffers: "_Buffers") -> list[Array]:
    """`tectum.models.swift.split` of a frame (H,W)."""
    import cv2

    parts = []
    for _ in range(LEVELS):
        size = (x.shape[1] // 2, x.shape[0] // 2)
        coarse = cv2.resize(x, size, dst=buffers.take(size[::-1]), interpolation=cv2.INTER_AREA)
        detail = buffers.take(x.shape)
        parts.append(cv2.subtract(x, _enlarge(coarse, detail), dst=detail))
        x = coarse
    return [*parts, x]


def _enlarge(x: Array, out: Array) -> Array:
    import cv2

    return cv2.resize(x, out.shape[::-1], dst=out, interpolation=cv2.INTER_LINEAR)


class _Buffers:
    """Arrays that serve every frame anew: to get large ones from the system takes longer than to fill them."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[Any, ...], list[Array]] = {}
        self._used: dict[tuple[Any, ...], int] = {}

    def take(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """Returns an array that nobody has taken for this frame."""
        key = dtype, *shape
        arrays, used = self._arrays.setdefault(key, []), self._used.get(key, 0)
        if used == len(arrays):
            arrays.append(np.empty(shape, dtype))
        self._used[key] = used + 1
        return arrays[used]

    def copy(self, x: Array) -> Array:
        """Returns x as float32."""
        copied = self.take(x.shape)
        np.copyto(copied, x)
        return copied

    def begin(self) -> None:
        """Give all arrays back, for a new frame; drop those of shapes that the last one did not need."""
        self._arrays = {key: arrays for key, arrays in self._arrays.items() if self._used.get(key)}
        self._used = {}


def _restore_colour(rgb: Array, grey: Array, fused: Array, buffers: "_Buffers") -> Array:
    """RGB (H,W,3) uint8 with the luminance `fused` in place of its own, `grey`: both (H,W) float32 in 0..255."""
    import cv2

    planes = [buffers.take(grey.shape, np.uint8) for _ in range(7)]
    red, green, blue, *_ = cv2.split(rgb, planes[:3])
    highest, lowest = cv2.max(cv2.max(red, green, planes[3]), blue, planes[3]), cv2.min(red, green, planes[4])
    room_above, room_below = cv2.bitwise_not(highest, highest), cv2.min(lowest, blue, lowest)
    up = cv2.subtract(fused, grey, planes[5], dtype=cv2.CV_8U)
    down = cv2.subtract(grey, fused, planes[6], dtype=cv2.CV_8U)
    three: Array = buffers.take(rgb.shape, np.uint8)
    result: Array = cv2.add(rgb, cv2.merge([up] * 3, three))
    cv2.subtract(result, cv2.merge([down] * 3, three), result)
    # OpenCV's sums stop at 0 and 255 channel by channel, which would change hue and luminance.
    higher = buffers.take(grey.shape)
    up = cv2.subtract(np.add(fused, _ROUND_UP, out=higher), grey, up, dtype=cv2.CV_8U)
    down = cv2.subtract(np.add(grey, _ROUND_UP, out=higher), fused, down, dtype=cv2.CV_8U)
    too_high, too_low = cv2.compare(up, room_above, cv2.CMP_GT, red), cv2.compare(down, room_below, cv2.CMP_GT, green)
    places = np.flatnonzero(cv2.bitwise_or(too_high, too_low, blue))
    if len(places):
        colours, scale = rgb.reshape(-1, 3)[places].T[:, None], np.float32(255)
        _, chroma = rgb_to_ycbcr(torch.from_numpy(colours / scale))
        inside = ycbcr_to_rgb(torch.from_numpy(fused.reshape(-1)[places][None, None] / scale), chroma)
        result.reshape(-1, 3)[places] = (to_levels(inside)[:, 0].T * 255).byte().numpy()
    return result
