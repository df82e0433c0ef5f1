"""D-FINE N and S, a detection transformer: a box is a distribution over where its edges are, refined layer by layer.

    features   HGNetV2, then attention within the coarsest scale and mixing between scales
    queries    the places the encoder scores highest; each decoder layer attends to a few points around its box and
               shifts the four edges by  sum_n W(n) p(n),  p a distribution over bins, W fine near 0 and coarse far off
    loss       over the pairs of the Hungarian assignment, for every layer: varifocal + 5 L1 + 2 GIoU + 0.15 focal on
               the bins + 1.5 distillation of the last layer's bins into the earlier ones, divided by the boxes' number
    predict    the best scores over queries and classes; there are no doubles to suppress

Reference: D-FINE: Redefine Regression Task in DETRs as Fine-grained Distribution Refinement, Peng et al., ICLR 2025,
https://arxiv.org/abs/2410.13842; built from transformers' (Apache-2.0).
Differs from the paper: no ImageNet weights, so the backbone's norms are not frozen; the images' values are not
standardised.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tectum.errors import UserError
from tectum.tasks.contract import load_weights
from tectum.tasks.detector import STRIDE, Detector
from tectum.tasks.torchvision import ensure_torchvision

SIZES: dict[str, dict[str, Any]] = {
    "n": {
        "strides": [16, 32],
        "encoder_hidden_dim": 128,
        "d_model": 128,
        "encoder_ffn_dim": 512,
        "decoder_ffn_dim": 512,
        "decoder_n_points": [6, 6],
        "depth_mult": 0.5,
        "hidden_expansion": 0.34,
    },
    "s": {
        "strides": [8, 16, 32],
        "encoder_hidden_dim": 256,
        "d_model": 256,
        "encoder_ffn_dim": 1024,
        "decoder_ffn_dim": 1024,
        "decoder_n_points": [3, 6, 3],
        "depth_mult": 0.34,
        "hidden_expansion": 0.5,
    },
}


class DFine(Detector):
    """D-FINE N or S, randomly initialised or with your weights.

    Args:
        classes: names; there is no background among them.
        channels: 1 for luminance, 3 for colour (a luminance then goes into all three).
        weights: a safetensors file of this task's `state_dict`.
        size: "n" (3.8 million parameters) or "s" (10).
        queries: boxes it can find in an image; fewer where a small image has fewer cells.
        denoising: further queries in training that start from a target's box, shaken; 0 for none.

    Raises:
        UserError: weights that do not fit, or transformers is not installed.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        channels: int = 1,
        weights: str | Path | None = None,
        size: str = "n",
        queries: int = 100,
        denoising: int = 100,
    ) -> None:
        super().__init__(classes, channels)
        if queries < 1 or denoising < 0:
            raise UserError(f"queries must be at least 1 and denoising 0 or more, got {queries} and {denoising}")
        self.queries = queries
        self.network = _network(len(self.classes), channels, size, denoising)
        if weights is not None:
            load_weights(self, weights, len(self.classes), head="network.model.decoder.class_embed.0.weight")

    def forward(self, image: Tensor, labels: list[dict[str, Tensor]] | None = None) -> Any:
        """transformers' output for the image, its last row and column repeated up to a multiple of 32."""
        x = self._pad(image)
        cells = sum((x.shape[2] // stride) * (x.shape[3] // stride) for stride in self.network.config.feat_strides)
        self.network.config.num_queries = min(self.queries, cells)
        return self.network(pixel_values=x, labels=labels)

    def _criterion(self, x: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        target = [{"class_labels": label, "boxes": box} for label, box in zip(labels, boxes, strict=True)]
        loss: Tensor = self(x, target).loss
        return loss

    def _detect(self, output: Any, fused: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        height, width = (-(-side // STRIDE) * STRIDE for side in fused.shape[2:])
        pixels = output.pred_boxes.float() * fused.new_tensor([width, height, width, height])
        best_scores, best = output.logits.float().sigmoid().flatten(1).topk(output.logits.shape[1])
        images = []
        for box, scores, index in zip(pixels, best_scores, best, strict=True):
            query = index // len(self.classes)
            centre, half = box[query, :2], box[query, 2:] / 2
            images.append((torch.cat([centre - half, centre + half], 1), scores, index % len(self.classes)))
        return images


def _network(num_classes: int, channels: int, size: str, denoising: int) -> Any:
    """transformers' DFineForObjectDetection in a published size."""
    if size not in SIZES:
        raise UserError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    ensure_torchvision()
    try:
        import scipy  # noqa: F401  # the assignment's
        import transformers
    except ImportError as error:
        raise UserError("D-FINE needs transformers and scipy: pip install 'tectum[train]'") from error
    library: Any = transformers
    constants = dict(SIZES[size])
    strides = constants.pop("strides")
    stages = [f"stage{i}" for i in (2, 3, 4)][-len(strides) :]
    channels_out = [64, 256, 512, 1024]
    backbone = library.HGNetV2Config(
        num_channels=channels,
        stem_channels=[channels, 16, 16],
        stage_in_channels=[16, 64, 256, 512],
        stage_mid_channels=[16, 32, 64, 128],
        stage_out_channels=channels_out,
        hidden_sizes=channels_out,
        depths=[1, 1, 2, 1],
        stage_num_blocks=[1, 1, 2, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5],
        stage_numb_of_layers=[3, 3, 3, 3],
        out_features=stages,
        use_learnable_affine_block=True,
    )
    config = library.DFineConfig(
        num_labels=num_classes,
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        encoder_in_channels=channels_out[-len(strides) :],
        feat_strides=strides,
        num_feature_levels=len(strides),
        decoder_in_channels=[constants["d_model"]] * len(strides),
        encode_proj_layers=[len(strides) - 1],
        decoder_layers=3,
        num_denoising=denoising,
        eval_size=None,
        tie_word_embeddings=False,
        attn_implementation="eager",  # the others have no second derivative on a CPU
        **constants,
    )
    net = library.DFineForObjectDetection(config)
    del net.class_embed, net.bbox_embed  # second copies of the decoder's, which it does not use
    return net.train()
