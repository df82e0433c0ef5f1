"""The selective state-space scan of Mamba-2 in plain PyTorch: a recurrence that is worked as products of matrices.

Every head h of a sequence keeps a state H (N,P) that decays at a rate of its own, by a step size dt of each token:

    H_t = exp(dt_t a) H_(t-1) + B_t (dt_t x_t)^T,    y_t = C_t H_t + d x_t                         a < 0

Token by token that is L small steps. With s_i the sum of dt a up to token i of a chunk of Q tokens, and H the state
before the chunk, the whole chunk is (exactly, for any Q)

    y_i  = sum_(j<=i) exp(s_i - s_j) (C_i . B_j) dt_j x_j  +  exp(s_i) C_i H                 three products
    H   <- exp(s_Q) H + sum_j exp(s_Q - s_j) B_j (dt_j x_j)^T                                  one

so that time and memory are linear in L. C B^T is common to the heads. All exponents are <= 0. Without gradients the
chunks are taken a few at a time and memory is what the output needs.

On a GPU, where the package `mamba_ssm` (2 or later) is installed, its kernel is used. Forward mode, and the gradient of
a gradient, which the kernel does not have, are always computed here.

Reference: Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality,
Dao and Gu, ICML 2024, https://arxiv.org/abs/2405.21060
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from tectum.errors import UserError

_CHUNK = 32
"""Tokens in a chunk. On a CPU 32 to 64 are the fastest; a GPU's kernel likes 256."""
TOKENS_AT_ONCE = 4096
"""Without gradients: a few MB of temporaries stay in a processor's cache."""


def scan(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None, *, chunk: int | None = _CHUNK
) -> Tensor:
    """Selective scan in O(L chunk) time: returns y (B,L,H,P), in the dtype of x.

    Sums and exponents are float32 or better.

    Args:
        x: (B,L,H,P), values written into the states, for each of H heads P numbers a token.
        dt: (B,L,H), step size of a token, not negative.
        a: (H,), decay rate of a head, negative.
        b: (B,L,N), where in the state a token is written; common to the heads.
        c: (B,L,N), where it is read.
        d: (H,), share of x that goes past the state; None is nothing.
        chunk: tokens worked on at once; the result does not depend on it. None takes all, in O(L^2), as an exported
            graph always does: its loops may not depend on the length.

    >>> x, dt, b = torch.ones(1, 3, 1, 1), torch.ones(1, 3, 1), torch.ones(1, 3, 1)
    >>> scan(x, dt, torch.tensor([-0.6931472]), b, b).flatten()  # a = -log 2: half of what was, and 1
    tensor([1.0000, 1.5000, 1.7500])
    """
    exported = torch.compiler.is_compiling()
    if x.is_cuda and not exported and not _has_tangent(x, dt, a, b, c) and _kernel() is not None:
        tensors = (x, dt, a, b, c) if d is None else (x, dt, a, b, c, d)
        y: Tensor = _KernelScan.apply(chunk, *tensors)  # type: ignore[no-untyped-call]
        return y
    if chunk is not None and not exported:
        return scan_from(None, x, dt, a, b, c, d, chunk=chunk)[0]
    s, written = (dt.to(torch.promote_types(x.dtype, torch.float32)) * a).cumsum(1), x * dt[..., None]
    y = torch.stack([_intra_chunk(p, b, c, q) for p, q in zip(s.unbind(2), written.unbind(2), strict=True)], dim=2)
    return y if d is None else y + d[:, None] * x


def scan_from(
    state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None = None,
    *,
    chunk: int = _CHUNK,
    workspace: "Workspace | None" = None,
) -> tuple[Tensor, Tensor]:
    """Selective scan of a part of a sequence: returns y (B,L,H,P) and the state (B,H,N,P) after it.

    `state` is the one after the part before, None is zero; the other arguments are those of `scan`. Without gradients y
    lies in the workspace, where one is given, until the next call overwrites it.

    >>> x, dt, b = torch.rand(1, 6, 2, 3), torch.rand(1, 6, 2), torch.rand(1, 6, 4)
    >>> first, state = scan_from(None, x[:, :4], dt[:, :4], -dt[0, 0], b[:, :4], b[:, :4])
    >>> second, _ = scan_from(state, x[:, 4:], dt[:, 4:], -dt[0, 0], b[:, 4:], b[:, 4:])
    >>> torch.allclose(torch.cat([first, second], 1), scan(x, dt, -dt[0, 0], b, b), atol=1e-6)
    True
    """
    if chunk < 1:
        raise UserError(f"chunk must be at least 1, got {chunk}")
    if torch.is_grad_enabled() or _has_tangent(x, dt, a, b, c):
        return _scan_chunks(state, x, dt, a, b, c, d, chunk)
    workspace = Workspace() if workspace is None else workspace
    y, start, length = workspace("y", x, *x.shape), 0, x.shape[1]
    step = max(1, TOKENS_AT_ONCE // (chunk * x.shape[0])) * chunk
    while start < length:
        size = min(chunk, length - start)
        end = start + min(step, (length - start) // size * size)
        state = _scan_into([z[:, start:end] for z in (y, x, dt, b, c)], a, d, state, size, workspace)
        start = end
    if state is None:
        state = x.new_zeros(len(x), x.shape[2], b.shape[2], x.shape[3])
    return y, state


class Workspace:
    """Buffers for temporaries by name, kept between calls: their pages need not be mapped and cleared again."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Returns the buffer of this name and shape, on the device of `like`, in its dtype or this one.

        Whatever had the name before is overwritten.
        """
        buffer, dtype = self._buffers.get(name), dtype or like.dtype
        if buffer is None or buffer.shape != shape or buffer.dtype != dtype:
            buffer = self._buffers[name] = like.new_empty(shape, dtype=dtype)
        return buffer


def _scan_into(
    sequences: Sequence[Tensor], a: Tensor, d: Tensor | None, state: Tensor | None, chunk: int, workspace: Workspace
) -> Tensor:
    """Scan of whole chunks into y, the first of y, x, dt, b, c, without derivatives; returns the state after them.

    Two products make y at once, as [exp(s_i - s_j) (C_i . B_j) | exp(s_i) C_i] times [dt_j x_j ; H].
    """
    y, x, dt, b, c = (z.unflatten(1, (-1, chunk)) for z in sequences)  # (B,n,Q,..)
    (batch, n, _, heads, width), states = x.shape, b.shape[3]
    s = (dt.to(torch.promote_types(x.dtype, torch.float32)) * a).transpose(2, 3).cumsum(3)  # (B,n,H,Q)
    last = s[..., -1:]

    # [dt_j x_j ; H], the right factor of y; H is the state before each chunk, filled in below
    right = workspace("right", x, batch, n, heads, chunk + states, width)
    written, before = right[:, :, :, :chunk], right[:, :, :, chunk:].unbind(1)
    torch.mul(x.transpose(2, 3), dt.transpose(2, 3)[..., None], out=written)

    # What each chunk adds to the state: sum_j exp(s_Q - s_j) B_j (dt_j x_j)^T
    decayed_b = workspace("decayed_b", x, batch, n, heads, chunk, states)
    torch.mul(b[:, :, None], (last - s).exp()[..., None], out=decayed_b)
    added = workspace("added", x, batch, n, heads, states, width)
    torch.bmm(_flatten(decayed_b).mT, _flatten(right)[:, :chunk], out=_flatten(added))

    # The states from chunk to chunk: H <- exp(s_Q) H + what the chunk adds
    after = x.new_empty(batch, heads, states, width)
    before[0].zero_() if state is None else before[0].copy_(state)
    decays = last.exp().to(x.dtype)[..., None].unbind(1)
    for current, decay, new, target in zip(before, decays, added.unbind(1), (*before[1:], after), strict=True):
        torch.addcmul(new, decay, current, out=target)

    # [exp(s_i - s_j) (C_i . B_j) | exp(s_i) C_i], the left factor of y
    left = workspace("left", x, batch, n, heads, chunk, chunk + states)
    intra, inter = left.split([chunk, states], dim=-1)
    decay = torch.sub(s[..., None], s[..., None, :], out=workspace("decay", s, batch, n, heads, chunk, chunk))
    torch.mul((c @ b.mT)[:, :, None], decay.add_(_mask_later(s)).exp_(), out=intra)
    torch.mul(c[:, :, None], s.exp()[..., None], out=inter)

    product = workspace("product", x, batch, n, heads, chunk, width)
    torch.bmm(_flatten(left), _flatten(right), out=_flatten(product))
    product = product.transpose(2, 3)
    y.copy_(product) if d is None else torch.addcmul(product, d[:, None], x, out=y)
    return after


def _flatten(x: Tensor) -> Tensor:
    """(B,n,H,..) of one block of memory -> (B n H,..)."""
    return x.flatten(0, 2)


def _scan_chunks(
    state: Tensor | None, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """Scan of all chunks of a sequence side by side, with derivatives."""
    length, dtype = x.shape[1], x.dtype
    chunk = min(chunk, length)
    missing = -length % chunk
    s = (dt.to(torch.promote_types(dtype, torch.float32)) * a).transpose(1, 2)
    written = (x * dt[..., None]).transpose(1, 2)
    if missing:  # tokens that add nothing and let nothing decay
        written, s = F.pad(written, (0, 0, 0, missing)), F.pad(s, (0, missing))
        b, c = F.pad(b, (0, 0, 0, missing)), F.pad(c, (0, 0, 0, missing))
    written, s = written.unflatten(2, (-1, chunk)), s.unflatten(2, (-1, chunk))
    b, c = b.unflatten(1, (-1, chunk)), c.unflatten(1, (-1, chunk))
    s = s.contiguous().cumsum(3)  # (B,H,chunks,Q)
    last = s[..., -1:]
    # What each chunk adds to the state, and the states before every chunk
    added = b.transpose(2, 3)[:, None] @ (written * (last - s).exp().to(dtype)[..., None])  # (B,H,chunks,N,P)
    before, state = _carry(last[..., 0], added, state)
    # Output of the chunk's own tokens, and of the state before it
    y = _intra_chunk(s, b[:, None], c[:, None], written) + (c[:, None] @ before) * s.exp().to(dtype)[..., None]
    y = y.flatten(2, 3).transpose(1, 2)[:, :length]
    return (y if d is None else y + d[:, None] * x), state


def _intra_chunk(s: Tensor, b: Tensor, c: Tensor, written: Tensor) -> Tensor:
    """Intra-chunk term of the scan, (..,Q,P); s is (..,Q), b and c (..,Q,N), written (..,Q,P)."""
    decay = (s[..., None] - s[..., None, :] + _mask_later(s)).exp()
    return (decay.to(b.dtype) * (c @ b.transpose(-1, -2))) @ written


def _mask_later(s: Tensor) -> Tensor:
    """(Q,Q), -infinity for later tokens, else 0: to be added before exp, so that no infinity meets 0."""
    size = s.shape[-1]
    return torch.full((size, size), -torch.inf, dtype=s.dtype, device=s.device).triu(1)


def _carry(log: Tensor, added: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """States before every chunk (B,H,chunks,N,P) and after the last; log decays are (B,H,chunks)."""
    current = torch.zeros_like(added[:, :, 0]) if state is None else state
    decay, states = log.exp().to(added.dtype)[..., None, None], []
    for decay_k, added_k in zip(decay.unbind(2), added.unbind(2), strict=True):  # indexing would cost backward L^2
        states.append(current)
        current = torch.addcmul(added_k, decay_k, current)
    return torch.stack(states, dim=2), current


# ---- the kernel of mamba_ssm -----------------------------------------------------------------------------------------


@functools.cache
def _kernel() -> Callable[..., Any] | None:
    """`mamba_chunk_scan_combined`, or None where it cannot be imported."""
    try:
        module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
        kernel: Callable[..., Any] = module.mamba_chunk_scan_combined
    except (ImportError, AttributeError):  # not installed, or a version before 2
        return None
    return kernel


class _KernelScan(torch.autograd.Function):
    """Scan by the kernel, forwards and backwards; by the code above where the gradient is differentiated in turn."""

    @staticmethod
    def forward(ctx: Any, chunk: int | None, *tensors: Tensor) -> Tensor:
        ctx.chunk = chunk
        ctx.save_for_backward(*tensors)
        return _scan_by_kernel(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            tensors = ctx.saved_tensors if again else tuple(x.detach().requires_grad_() for x in ctx.saved_tensors)
            # views, so that the gradient by each is its own even where two are the same tensor
            views = tuple(x.view_as(x) if again else x for x in tensors)
            inputs = [x for x, wanted in zip(views, ctx.needs_input_grad[1:], strict=True) if wanted]
            y = scan_from(None, *views, chunk=ctx.chunk or _CHUNK)[0] if again else _scan_by_kernel(*views)
            gradients = iter(torch.autograd.grad(y, inputs, grad, create_graph=again))
        return None, *(next(gradients) if wanted else None for wanted in ctx.needs_input_grad[1:])


def _scan_by_kernel(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None) -> Tensor:
    run = _kernel()
    assert run is not None
    y: Tensor = run(x, dt, a, b[:, :, None], c[:, :, None], 256, D=d)
    return y


def _has_tangent(*tensors: Tensor) -> bool:
    """True where a forward-mode derivative is carried along, by `torch.func` or by a dual tensor."""
    if any(torch._C._functorch.is_functorch_wrapped_tensor(x) for x in tensors):
        return True
    return any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)
