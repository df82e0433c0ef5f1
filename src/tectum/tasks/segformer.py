"""SegFormer B0 to B5, a semantic segmentation network: the class of each pixel.

A pyramid of four stages, each a strided convolution and transformer blocks whose keys and values are taken on a grid
coarser by s; features at 1/4, 1/8, 1/16 and 1/32 of the image meet in a head without any convolution but 1x1:

    block      x += attention(norm(x), s);   x += linear(gelu(depthwise3x3(linear(norm(x)))))
    head       z = classify(dropout(relu(batchnorm(sum_i up(F_i (L_i c_i + l_i))))))
    loss       cross-entropy(z resized to the mask, mask), the mean over the pixels that count

A linear map of the channels and a resize of the image change places freely, so F_i L_i (one small matrix) is applied on
each stage's own grid, and only then resized: the same function and the same parameters as the published head at a
fraction of its cost, of which F = [F_1 .. F_4] at 1/4 resolution is most.

Reference: SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, Xie et al., NeurIPS 2021,
https://arxiv.org/abs/2105.15203; its encoder is built from transformers' (Apache-2.0).
Differs from TDFusion's release: its constants are kept (tanh GELU, norms' eps, whole channels dropped, corners aligned
when logits are resized); pixels can be ignored and classes weighted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tectum.errors import UserError
from tectum.metrics.task import SegmentationScore
from tectum.nn.modes import evaluation_mode
from tectum.tasks.contract import check_batch, check_classes, check_image, describe, load_weights, pad
from tectum.tasks.torchvision import ensure_torchvision

DEPTHS = {
    "b0": (2, 2, 2, 2),
    "b1": (2, 2, 2, 2),
    "b2": (3, 4, 6, 3),
    "b3": (3, 4, 18, 3),
    "b4": (3, 8, 27, 3),
    "b5": (3, 6, 40, 3),
}
_LEAST_PX = 32
"""Smaller images are enlarged by their last row and column: a coarse grid of the first stage needs one cell."""


class SegFormer(nn.Module):
    """SegFormer B0 to B5, randomly initialised or with your weights.

    Args:
        classes: names; the first is the background, if there is one.
        channels: 1 for luminance, 3 for colour (a luminance then goes into all three).
        weights: a safetensors file of this task's `state_dict`.
        size: "b0" (3.7 million parameters) to "b5" (82).
        class_weights: how much the pixels of each class count in the loss; None is 1 for all.
        ignore_index: label of pixels that do not count.

    Attributes:
        classes, channels, ignore_index: as given.
        label_type: "masks".

    Raises:
        UserError: fewer than two classes, weights that do not fit, or transformers is not installed.

    >>> task = SegFormer(["background", "car", "person"])
    >>> task.predict(torch.rand(1, 1, 61, 83)).shape
    torch.Size([1, 61, 83])
    """

    label_type = "masks"
    class_weights: Tensor | None

    def __init__(
        self,
        classes: Sequence[str],
        *,
        channels: int = 1,
        weights: str | Path | None = None,
        size: str = "b0",
        class_weights: Sequence[float] | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.classes = check_classes(classes, channels, least=2)
        self.channels, self.ignore_index = channels, ignore_index
        if 0 <= ignore_index < len(self.classes):
            raise UserError(f"ignore_index must be no class (0 to {len(self.classes) - 1}), got {ignore_index}")
        self.network = _network(len(self.classes), channels, size)
        balance = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        if balance is not None and (len(balance) != len(self.classes) or not bool((balance >= 0).all())):
            raise UserError(
                f"class_weights must be one number >= 0 for each of {len(self.classes)} classes, got {class_weights}"
            )
        self.register_buffer("class_weights", balance, persistent=False)
        if weights is not None:
            load_weights(self, weights, len(self.classes), head="network.decode_head.classifier.weight")

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B,C,h,w) on the grid of the finest stage, h and w a quarter of the image's, rounded up."""
        x = pad(check_image(image, self.channels), _LEAST_PX)
        features = []
        for stage in self.network.segformer.stages:
            x = stage(x)
            features.append(x)
        logits = _decode(self.network.decode_head, features)
        return logits[..., : -(-image.shape[2] // 4), : -(-image.shape[3] // 4)]

    def loss(self, fused: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, the mean over the pixels that count; 0 when none does.

        Args:
            fused: (B,channels,H,W) in [0,1].
            target: classes or `ignore_index` (B,h,w) int64, of any resolution.

        Raises:
            UserError: another shape or type, or a label that is no class.
        """
        is_counted = self._check_masks(target, len(fused))
        logits = _resize(self(fused), (target.shape[1], target.shape[2])).float()
        if not is_counted:
            return logits.sum() * 0
        return functional.cross_entropy(logits, target, self.class_weights, ignore_index=self.ignore_index)

    def predict(self, fused: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The likeliest class of each pixel, (B,h,w) int64; `size` is (h,w), the image's if None."""
        with evaluation_mode(self), torch.no_grad():
            return _resize(self(fused), size or (fused.shape[2], fused.shape[3])).argmax(1)

    def metric(self) -> SegmentationScore:
        """An empty score: mIoU, then mAcc."""
        return SegmentationScore(len(self.classes), self.ignore_index)

    def _check_masks(self, target: Any, batch: int) -> bool:
        """Refuse what is no mask of the classes; returns True if any pixel counts in the loss."""
        if not isinstance(target, Tensor) or target.dim() != 3 or target.dtype != torch.int64:
            raise UserError(
                f"a segmenter learns from masks (B,H,W) int64, got {describe(target)}; open the data with masks as "
                "its target"
            )
        check_batch(target, batch)
        num_classes = len(self.classes)
        is_counted = target != self.ignore_index
        wrong = ((target < 0) | (target >= num_classes)) & is_counted
        if bool(wrong.any()):
            image, row, column = wrong.nonzero()[0].tolist()
            raise UserError(
                f"labels must be 0 to {num_classes - 1} (or {self.ignore_index}: ignored), got "
                f"{int(target[image, row, column])} in image {image} of the batch; check the classes and the label "
                "files"
            )
        if self.class_weights is None:
            return bool(is_counted.any())
        return bool(self.class_weights[target[is_counted]].any())


def _network(num_classes: int, channels: int, size: str) -> Any:
    """transformers' SegformerForSemanticSegmentation with the published constants."""
    if size not in DEPTHS:
        raise UserError(f"size must be one of {', '.join(DEPTHS)}, got {size!r}")
    ensure_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise UserError("SegFormer needs transformers: pip install 'tectum[train]'") from error
    library: Any = transformers
    small = size == "b0"
    config = library.SegformerConfig(
        num_labels=num_classes,
        num_channels=channels,
        depths=DEPTHS[size],
        hidden_sizes=(32, 64, 160, 256) if small else (64, 128, 320, 512),
        decoder_hidden_size=256 if size in ("b0", "b1") else 768,
        hidden_act="gelu_pytorch_tanh",
        attn_implementation="eager",  # the others have no second derivative on a CPU
    )
    net = library.SegformerForSemanticSegmentation(config)
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    net.decode_head.batch_norm.eps, net.decode_head.batch_norm.momentum = 1e-3, 0.03
    net.decode_head.dropout = nn.Dropout2d(config.classifier_dropout_prob)
    return net.train()


def _decode(head: Any, features: Sequence[Tensor]) -> Tensor:
    """The logits of transformers' decode head, each stage fused before it is resized."""
    size = features[0].shape[2:]
    fuse = head.linear_fuse.weight[:, :, 0, 0].chunk(len(features), dim=1)[::-1]  # the coarsest comes first
    x = None
    for feature, project, share in zip(features, head.linear_projections, fuse, strict=True):
        # channels last, which resizing is faster in
        y = functional.linear(feature.permute(0, 2, 3, 1), share @ project.proj.weight, share @ project.proj.bias)
        y = y.permute(0, 3, 1, 2)
        if y.shape[2:] != size:
            y = functional.interpolate(y, size=size, mode="bilinear", align_corners=False)
        x = y if x is None else x + y
    logits: Tensor = head.classifier(head.dropout(head.activation(head.batch_norm(x))))
    return logits


def _resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with aligned corners, as published."""
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=True)
