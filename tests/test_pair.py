"""Pair: checked once when it is made, and nothing lost on the way."""

import dataclasses

import pytest
import torch
from torch import Tensor

from tectum.pair import Pair


def ramp(*shape: int, start: float = 0.0) -> Tensor:
    return torch.linspace(start, 1, torch.Size(shape).numel()).reshape(shape)


A, B = ramp(2, 1, 3, 4), ramp(2, 1, 3, 4, start=0.5)


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (A, B[:, :, :2], r"share one shape, got \(2, 1, 3, 4\) and \(2, 1, 2, 4\); register or resize"),
        (A, B[:1], "share one shape"),
        (A[0], B[0], r"luminances \(B,1,H,W\), got \(1, 3, 4\)"),
        (A.expand(2, 3, 3, 4), B.expand(2, 3, 3, 4), "luminances.*rgb_to_ycbcr"),
        (A.double(), B, "one dtype.*torch.float64 on cpu and torch.float32"),
        ((A * 255).byte(), (B * 255).byte(), "floating point in .*torch.uint8"),
        (A, B.to("meta"), "one device.*cpu and torch.float32 on meta"),
    ],
)
def test_images_that_do_not_fit_are_refused(a: Tensor, b: Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Pair(a, b)


def test_names_are_as_many_as_images() -> None:
    assert Pair(A, B, name=("x", "y")).name == ("x", "y")
    with pytest.raises(ValueError, match="one name per image, got 1 for 2"):
        Pair(A, B, name=("x",))


def test_a_pair_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Pair(A, B).a = B  # type: ignore[misc]


def test_map_reaches_both_images_and_leaves_the_rest() -> None:
    pair = Pair(A, B, target=["mask", "mask"], name=("x", "y")).map(lambda x: x.flip(3)[:, :, 1:])
    assert torch.equal(pair.a, A.flip(3)[:, :, 1:])
    assert torch.equal(pair.b, B.flip(3)[:, :, 1:])
    assert (pair.target, pair.name) == (["mask", "mask"], ("x", "y"))


def test_map_checks_what_it_makes() -> None:
    with pytest.raises(ValueError, match="luminances"):
        Pair(A, B).map(lambda x: x[0])


def test_swap_exchanges_the_images_only() -> None:
    pair = Pair(A, B, target=[3, 4], name=("x", "y"))
    swapped = pair.swap()
    assert swapped.a is B and swapped.b is A
    assert (swapped.target, swapped.name) == ([3, 4], ("x", "y"))
    assert swapped.swap().a is A


def test_to_moves_images_and_a_tensor_target() -> None:
    moved = Pair(A, B, target=torch.zeros(2, 3, 4)).to("meta")
    assert {moved.a.device.type, moved.b.device.type, moved.target.device.type} == {"meta"}
    assert Pair(A, B, target=["boxes", "more"]).to("meta").target == ["boxes", "more"]


def test_collate_keeps_the_order() -> None:
    first, second = (Pair(A[i : i + 1], B[i : i + 1], torch.full((1, 2), i), (f"{i}",)) for i in range(2))
    both = Pair.collate([second, first])
    assert torch.equal(both.a, A.flip(0)) and torch.equal(both.b, B.flip(0))
    assert both.target.tolist() == [[1, 1], [0, 0]]
    assert both.name == ("1", "0")


def test_collate_of_targets() -> None:
    one, two = Pair(A[:1], B[:1], target=[{"labels": 1}]), Pair(A[1:], B[1:], target=[{"labels": 2}])
    assert Pair.collate([one, two]).target == [{"labels": 1}, {"labels": 2}]
    assert Pair.collate([Pair.collate([one, two]), one]).target == [{"labels": 1}, {"labels": 2}, {"labels": 1}]
    assert Pair.collate([Pair(A, B), Pair(A, B)]).target is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Pair(A[1:], B[1:]), "complete the labels"),
        (Pair(A[1:], B[1:], target=torch.zeros(1, 3)), "share one size"),
        (Pair(A[1:, :, 1:], B[1:, :, 1:], target=torch.zeros(1, 2)), "crop or resize"),
    ],
)
def test_what_cannot_be_one_batch_is_refused(other: Pair, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pair.collate([Pair(A[:1], B[:1], target=torch.zeros(1, 2)), other])


def test_to_moves_boxes() -> None:
    moved = Pair(A[:1], B[:1], target=[{"boxes": torch.zeros(2, 4)}]).to("meta")
    assert moved.target[0]["boxes"].device.type == "meta"


def test_a_target_has_one_entry_per_image() -> None:
    with pytest.raises(ValueError, match="one entry per image"):
        Pair(A, B, target=torch.zeros(3, 4, 5))
