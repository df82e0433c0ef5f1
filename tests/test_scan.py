"""The scan is the recurrence, whatever the chunk; its derivatives, its export and its kernel are the same."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import jvp

from tectum.nn import scan as module
from tectum.nn.scan import Workspace, scan, scan_from


def recurrence(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None) -> Tensor:
    """Token by token, straight from the definition."""
    state = x.new_zeros(len(x), b.shape[2], *x.shape[2:])
    found = []
    for t in range(x.shape[1]):
        state = (dt[:, t] * a).exp()[:, None, :, None] * state
        state = state + b[:, t, :, None, None] * (dt[:, t, :, None] * x[:, t])[:, None]
        y = (c[:, t, :, None, None] * state).sum(1)
        found.append(y if d is None else y + d[:, None] * x[:, t])
    return torch.stack(found, 1)


def case(length: int, *, batch: int = 2, heads: int = 3, width: int = 4, states: int = 5) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    dt = normal(batch, length, heads).exp() * 0.3
    b, c = normal(batch, length, states), normal(batch, length, states)
    return normal(batch, length, heads, width), dt, -normal(heads).exp(), b, c, normal(heads)


@pytest.fixture
def learned_nothing() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 150])
@pytest.mark.parametrize("chunk", [1, 7, 32, 256, None])
@pytest.mark.parametrize("grad", [True, False])
def test_the_scan_is_the_recurrence(
    length: int, chunk: int | None, grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 64)
    tensors = case(length)
    with torch.set_grad_enabled(grad):
        found = scan(*tensors, chunk=chunk), scan(*tensors[:-1], chunk=chunk)
    for y, expected in zip(found, (recurrence(*tensors), recurrence(*tensors[:-1])), strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_decays_that_vanish_are_no_harm() -> None:
    """Exponents of -2000: exp(s_i - s_j) must not be taken as a quotient."""
    x, dt, a, b, c, d = (z.float() for z in case(100))
    a = a * 500
    y = scan(x, dt, a, b, c, d)
    expected = recurrence(*(z.double() for z in (x, dt, a, b, c, d)))
    assert (dt * a).sum(1).min() < -1000
    torch.testing.assert_close(y, expected.float(), rtol=1e-5, atol=1e-5)
    x.requires_grad_(), dt.requires_grad_()
    scan(x, dt, a, b, c, d).square().sum().backward()
    assert x.grad is not None and dt.grad is not None and x.grad.isfinite().all() and dt.grad.isfinite().all()


@pytest.mark.usefixtures("learned_nothing")
def test_a_sequence_may_come_in_parts() -> None:
    x, dt, a, b, c, d = case(90)
    state, found = None, []
    for part in (slice(0, 13), slice(13, 14), slice(14, 90)):
        y, state = scan_from(state, x[:, part], dt[:, part], a, b[:, part], c[:, part], d)
        found.append(y)
    torch.testing.assert_close(torch.cat(found, 1), recurrence(x, dt, a, b, c, d), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("learned_nothing")
def test_a_workspace_changes_nothing_but_where_numbers_lie() -> None:
    """Parts of several sizes and dtypes in one workspace, and a result from outside it that stays."""
    workspace = Workspace()
    for length in (64, 90, 7, 64):
        for dtype in (torch.float64, torch.float32):
            tensors = [z.to(dtype) for z in case(length)]
            expected, state = scan_from(None, *tensors)
            found, other = scan_from(None, *tensors, workspace=workspace)
            assert torch.equal(found, expected) and torch.equal(other, state)
            assert scan_from(None, *tensors, workspace=workspace)[0].data_ptr() == found.data_ptr()
            assert torch.equal(other, state), "the state is the caller's"


@pytest.mark.usefixtures("learned_nothing")
def test_nothing_to_scan() -> None:
    x, dt, a, b, c, d = case(4)
    y, state = scan_from(None, x[:, :0], dt[:, :0], a, b[:, :0], c[:, :0], d)
    assert y.shape == (2, 0, 3, 4) and state.shape == (2, 3, 5, 4) and not state.any()


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        scan(*case(4), chunk=0)


@pytest.mark.parametrize("taken", range(6))
def test_gradients_are_those_of_the_recurrence(taken: int) -> None:
    tensors = [x.requires_grad_() for x in case(45)]
    grads = [
        torch.autograd.grad(f(*tensors).sin().sum(), tensors[taken])[0]
        for f in (lambda *t: scan(*t, chunk=8), recurrence)
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-10)


def test_forward_mode_and_double_backward() -> None:
    tensors = case(20, batch=1, heads=2, width=2, states=2)
    ahead = tuple(x.flip(0) if x.dim() == 1 else x.flip(1) for x in tensors)
    out, u = jvp(lambda *t: scan(*t, chunk=6), tensors, ahead)
    expected_out, expected = jvp(recurrence, tensors, ahead)
    torch.testing.assert_close(out, expected_out, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(u, expected, rtol=1e-10, atol=1e-10)
    small = tuple(x.requires_grad_() for x in case(5, batch=1, heads=2, width=1, states=1))
    assert torch.autograd.gradgradcheck(lambda *t: scan(*t, chunk=3), small)


class Scan(nn.Module):
    def forward(self, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return scan(x, dt, a, b, c, d, chunk=4)


@pytest.mark.slow
def test_goes_through_export_with_any_length() -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    free = {0: batch, 1: length}
    program = torch.export.export(Scan(), case(9), dynamic_shapes=(free, free, {}, free, free, {})).module()
    for size, images in ((9, 2), (2, 3), (32, 1), (300, 2)):  # 4 tokens a chunk, 8 chunks a block
        tensors = case(size, batch=images)
        torch.testing.assert_close(program(*tensors), recurrence(*tensors), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("learned_nothing")
def test_only_so_many_tokens_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporaries do not grow with the length."""
    seen, original = [], module._scan_into

    def watched(sequences: list[Tensor], *others: Any) -> Any:
        seen.append(sequences[0].shape[1] * len(sequences[0]))
        return original(sequences, *others)

    monkeypatch.setattr(module, "_scan_into", watched)
    scan(*case(9000, heads=1, width=1, states=1))
    assert max(seen) <= module.TOKENS_AT_ONCE and sum(seen) == 2 * 9000


# ---- the kernel of mamba_ssm -----------------------------------------------------------------------------------------


class Installed(ModuleType):
    """Stands for the package: says what it was asked, and answers by the recurrence."""

    def __init__(self, name: str = "mamba_ssm.ops.triton.ssd_combined") -> None:
        super().__init__(name)
        self.calls: list[tuple[Any, ...]] = []

    def mamba_chunk_scan_combined(
        self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, D: Tensor | None = None
    ) -> Tensor:
        self.calls.append((x.shape, dt.shape, A.shape, B.shape, C.shape, chunk_size, D is None))
        return recurrence(x, dt, A, B[:, :, 0], C[:, :, 0], D)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    """The package is there and every tensor is on a GPU."""
    found = Installed()
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, found.__name__, found)
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda self: True))
    module._kernel.cache_clear()
    yield found
    module._kernel.cache_clear()


def test_without_the_package_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", ModuleType("mamba_ssm"))  # version 1 has no such module
    module._kernel.cache_clear()
    assert module._kernel() is None
    module._kernel.cache_clear()


def test_the_kernel_is_used_on_a_gpu(installed: Installed) -> None:
    tensors = case(40)
    torch.testing.assert_close(scan(*tensors), recurrence(*tensors), rtol=0, atol=0)
    torch.testing.assert_close(scan(*tensors[:-1]), recurrence(*tensors[:-1]), rtol=0, atol=0)
    shapes = (2, 40, 3, 4), (2, 40, 3), (3,), (2, 40, 1, 5), (2, 40, 1, 5), 256
    assert installed.calls == [(*shapes, False), (*shapes, True)]


def test_the_kernel_is_used_for_the_gradient_and_not_for_the_gradient_of_that(installed: Installed) -> None:
    tensors = [x.requires_grad_() for x in case(11)]
    tensors[2] = tensors[2].detach()
    wanted = [*tensors[:2], *tensors[3:]]
    first = torch.autograd.grad(scan(*tensors).sin().sum(), wanted)
    assert len(installed.calls) == 2, "forwards, and again to go back"
    expected = torch.autograd.grad(recurrence(*tensors).sin().sum(), wanted, create_graph=True)
    again = torch.autograd.grad(scan(*tensors).sin().sum(), wanted, create_graph=True)
    assert len(installed.calls) == 3
    for x, y, z in zip(first, again, expected, strict=True):
        torch.testing.assert_close(x, z, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(y, z, rtol=1e-10, atol=1e-10)
    second, second_expected = (
        torch.autograd.grad(sum(x.square().sum() for x in grads), tensors[0])[0]  # type: ignore[arg-type]
        for grads in (again, expected)
    )
    torch.testing.assert_close(second, second_expected, rtol=1e-9, atol=1e-9)


def test_the_kernel_is_not_used_in_forward_mode(installed: Installed) -> None:
    tensors = case(11)
    _, u = jvp(scan, tensors, tensors)
    with forward_ad.dual_level():
        y = scan(*(forward_ad.make_dual(x, x) for x in tensors))
        torch.testing.assert_close(forward_ad.unpack_dual(y).tangent, u)
    assert not installed.calls
