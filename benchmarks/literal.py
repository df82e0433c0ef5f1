"""TDFusion's two networks written literally from their published description: the reference for speed and exactness.

One module per box of the paper, `b c h w -> b (h w) c` copies for the normalisation, the query, key and value
normalised and multiplied as written, nothing shared, nothing reordered. `tectum.models.tdfusion` is timed against them
(they cost what the published implementation costs) and must equal them. Inputs in tectum's order: visible, infrared.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
        mean = x.mean(-1, keepdim=True)
        variance = x.var(-1, keepdim=True, unbiased=False)
        x = (x - mean) / torch.sqrt(variance + 1e-5) * self.weight + self.bias
        return x.reshape(b, h, w, c).permute(0, 3, 1, 2).contiguous()


def conv1(i: int, o: int) -> nn.Conv2d:
    return nn.Conv2d(i, o, 1, bias=False)


def conv3(i: int, o: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, padding=1, groups=groups, bias=False)


def heads(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.reshape(b, 8, c // 8, h * w)


def attend(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor, shape: torch.Size) -> Tensor:
    q, k = F.normalize(heads(q), dim=-1), F.normalize(heads(k), dim=-1)
    attention = (q @ k.transpose(-2, -1) * temperature).softmax(-1)
    return (attention @ heads(v)).reshape(shape)


class Attention(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(8, 1, 1))
        self.qkv, self.qkv_dwconv, self.project_out = conv1(c, 3 * c), conv3(3 * c, 3 * c, 3 * c), conv1(c, c)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1)
        return self.project_out(attend(q, k, v, self.temperature, x.shape))


class FeedForward(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.project_in, self.dwconv, self.project_out = conv1(c, 4 * c), conv3(4 * c, 4 * c, 4 * c), conv1(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * value)


class RestormerBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.ffn = LayerNorm(c), Attention(c), LayerNorm(c), FeedForward(c)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class AdaptiveFusion(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.temperature1, self.temperature2 = nn.Parameter(torch.ones(8, 1, 1)), nn.Parameter(torch.ones(8, 1, 1))
        self.qkv1, self.qkv1_dwconv = conv1(c, 3 * c), conv3(3 * c, 3 * c, 3 * c)
        self.qkv2, self.qkv2_dwconv = conv1(c, 3 * c), conv3(3 * c, 3 * c, 3 * c)
        self.project_mid1, self.project_mid2 = conv1(c, c), conv1(c, c)
        self.project_E, self.project_E_d = conv1(2 * c, 8 * c), conv3(8 * c, 8 * c, 8 * c)
        self.project_E1, self.project_E1_d = conv1(c, 4 * c), conv3(4 * c, 4 * c, 4 * c)
        self.project_E2, self.project_E2_d = conv1(c, 4 * c), conv3(4 * c, 4 * c, 4 * c)
        self.project_out1, self.project_out2 = conv1(4 * c, 2 * c), conv1(4 * c, 2 * c)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        q1, k1, v1 = self.qkv1_dwconv(self.qkv1(x1)).chunk(3, dim=1)
        q2, k2, v2 = self.qkv2_dwconv(self.qkv2(x2)).chunk(3, dim=1)
        x1 = x1 + self.project_mid1(attend(q2, k1, v1, self.temperature1, x1.shape))
        x2 = x2 + self.project_mid2(attend(q1, k2, v2, self.temperature2, x2.shape))
        both = torch.cat([x1, x2], dim=1)
        gate1, gate2 = self.project_E_d(self.project_E(both)).chunk(2, dim=1)
        z1 = F.gelu(gate1) * self.project_E1_d(self.project_E1(x1))
        z2 = F.gelu(gate2) * self.project_E2_d(self.project_E2(x2))
        return both + self.project_out1(z1) + self.project_out2(z2)


class LiteralTDFusion(nn.Module):
    """The published network under its published names; `forward(visible, infrared)` puts infrared first inside."""

    def __init__(self) -> None:
        super().__init__()
        self.project_in_1, self.project_in_2 = conv3(1, 16), conv3(1, 16)
        self.encoder1 = nn.Sequential(RestormerBlock(16), RestormerBlock(16))
        self.encoder2 = nn.Sequential(RestormerBlock(16), RestormerBlock(16))
        self.FM = AdaptiveFusion(16)
        self.decoder = nn.Sequential(RestormerBlock(32), RestormerBlock(32))
        self.project_out_0, self.project_out_1 = conv3(32, 16), conv3(16, 1)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        x1 = self.encoder1(self.project_in_1(infrared))
        x2 = self.encoder2(self.project_in_2(visible))
        x = self.decoder(self.FM(x1, x2))
        return torch.sigmoid(self.project_out_1(F.leaky_relu(self.project_out_0(x), 0.01)))


class LiteralLossGenerator(nn.Module):
    """The published loss generation module; weights of (visible, infrared) although its first channel is infrared's."""

    def __init__(self) -> None:
        super().__init__()
        self.project_in_1, self.project_in_2 = conv3(1, 16), conv3(1, 16)
        self.encoder1 = nn.Sequential(RestormerBlock(16), RestormerBlock(16))
        self.encoder2 = nn.Sequential(RestormerBlock(16), RestormerBlock(16))
        self.decoder = nn.Sequential(RestormerBlock(32), RestormerBlock(32))
        self.project_out_0, self.activation, self.project_out_1 = conv3(32, 16), nn.PReLU(), conv3(16, 2)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        x1 = self.encoder1(self.project_in_1(infrared))
        x2 = self.encoder2(self.project_in_2(visible))
        x = self.decoder(torch.cat([x1, x2], dim=1))
        return self.project_out_1(self.activation(self.project_out_0(x))).softmax(1).flip(1)
