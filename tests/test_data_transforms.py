"""Crops, flips and other sizes: what is known of an image stays with it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tectum.data.transforms import centre_crop, crop, flip, random_crop, resize, rotate_quarters
from tectum.pair import Pair

HEIGHT, WIDTH = 24, 40


def marked(x1: int, y1: int, x2: int, y2: int, kind: str) -> Pair:
    """A bright rectangle, and a mask or a box that says where it is."""
    image = torch.zeros(1, 1, HEIGHT, WIDTH)
    image[..., y1:y2, x1:x2] = 1
    box = torch.tensor([[x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT]])
    target = image[0].long() if kind == "masks" else [{"boxes": box, "labels": torch.tensor([5])}]
    return Pair(image, 1 - image, target, ("marked",))


def extent(image: Tensor) -> list[float]:
    """The box around what is bright, relative, or nothing."""
    rows, columns = (image[0, 0] > 0.5).nonzero(as_tuple=True)
    height, width = image.shape[2:]
    if not len(rows):
        return []
    low, high = (int(columns.min()), int(rows.min())), (int(columns.max()) + 1, int(rows.max()) + 1)
    return [low[0] / width, low[1] / height, high[0] / width, high[1] / height]


def fits(pair: Pair) -> bool:
    """Whether the target says where the bright rectangle is."""
    assert torch.equal(pair.b, 1 - pair.a)
    if isinstance(pair.target, Tensor):
        return torch.equal(pair.target, pair.a[0].round().long())
    boxes = pair.target[0]["boxes"]
    assert len(boxes) == len(pair.target[0]["labels"])
    return extent(pair.a) == pytest.approx(boxes[0].tolist() if len(boxes) else [], abs=1e-6)


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x1, y1 = draw(st.integers(0, WIDTH - 2)), draw(st.integers(0, HEIGHT - 2))
    return x1, y1, draw(st.integers(x1 + 1, WIDTH)), draw(st.integers(y1 + 1, HEIGHT))


@given(rectangles(), rectangles(), st.booleans(), st.sampled_from(["masks", "boxes"]))
def test_the_marker_stays_under_its_label(
    thing: tuple[int, int, int, int], window: tuple[int, int, int, int], mirrored: bool, kind: str
) -> None:
    pair, (x1, y1, x2, y2) = marked(*thing, kind), window
    pair = crop(flip(pair) if mirrored else pair, y1, x1, y2 - y1, x2 - x1, min_share=0)
    assert pair.a.shape == (1, 1, y2 - y1, x2 - x1)
    assert fits(pair) and fits(flip(pair))


@given(rectangles(), st.integers(0, 10_000), st.sampled_from(["masks", "boxes"]))
def test_random_crops_carry_their_labels(thing: tuple[int, int, int, int], seed: int, kind: str) -> None:
    pair, draws = marked(*thing, kind), torch.Generator().manual_seed(seed)
    found = random_crop(pair, 16, draws, min_share=0)
    assert fits(found)
    bare = random_crop(replace(pair, target=None), 16, torch.Generator().manual_seed(seed))
    assert torch.equal(bare.a, found.a), "a target must not change what is drawn"
    assert fits(centre_crop(pair, 16, min_share=0))


@pytest.mark.parametrize(("left", "share"), [(9, 1.0), (12, 0.8), (15, 0.5), (18, 0.2)])
@pytest.mark.parametrize("min_share", [0.1, 0.5, 0.6])
def test_a_box_is_dropped_when_too_little_is_left_of_it(left: int, share: float, min_share: float) -> None:
    """The rectangle is 10 wide, from 10 to 20; its label goes with it."""
    cut = crop(marked(10, 4, 20, 14, "boxes"), 0, left, HEIGHT, WIDTH - left, min_share=min_share).target[0]
    assert (len(cut["boxes"]), len(cut["labels"])) == ((1, 1) if share >= min_share else (0, 0))


def test_resizing_blends_images_and_leaves_what_is_known() -> None:
    """Bilinear with half-pixel centres: the mean of the nearest four, here of the inner two in a row."""
    row = torch.tensor([0.0, 0.0, 1.0, 0.0]).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)
    mask = torch.arange(16).reshape(1, 4, 4)
    pair = Pair(row, row, mask)
    half = resize(pair, (2, 2))
    assert half.a[0, 0].tolist() == [[0, 0.5], [0, 0.5]]
    assert torch.equal(half.target, mask)
    assert float(resize(pair, (1, 1)).a) == 0.5
    assert float(resize(pair, (1, 1), antialias=True).a) == pytest.approx(7 / 24)
    assert resize(pair, (4, 4)).a is pair.a
    boxes = marked(10, 4, 20, 14, "boxes")
    assert torch.equal(resize(boxes, (7, 9)).target[0]["boxes"], boxes.target[0]["boxes"])


def test_masks_are_resized_to_the_nearest_number() -> None:
    image, mask = torch.zeros(1, 1, 4, 6), torch.arange(24).reshape(1, 4, 6)
    assert resize(Pair(image, image, mask), (2, 3), masks=True).target[0].tolist() == [[7, 9, 11], [19, 21, 23]]
    twice = resize(Pair(image, image, mask), (8, 12), masks=True).target
    assert torch.equal(twice[:, ::2, ::2], mask) and torch.equal(twice[:, 1::2, 1::2], mask)


def test_a_mask_of_another_size_is_not_cut() -> None:
    pair = Pair(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 16, 16, dtype=torch.long), ("x",))
    with pytest.raises(ValueError, match="x has 8x8 and a mask of 16x16; crop before resizing"):
        random_crop(pair, 4, torch.Generator())


def test_targets_of_another_kind_stay() -> None:
    """A task of one's own may want one number per image."""
    for target in (torch.tensor([3]), ["a caption"]):
        pair = Pair(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 8), target)
        for change in (lambda x: random_crop(x, 4, torch.Generator()), flip, lambda x: resize(x, (3, 3))):
            change_of: Callable[[Pair], Pair] = change
            assert change_of(pair).target is target


def test_batches_are_cut_like_single_pairs() -> None:
    pairs = [marked(2, 3, 20, 14, "boxes"), marked(30, 10, 38, 22, "boxes")]
    batch = crop(Pair.collate(pairs), 2, 1, 20, 30)
    for i, pair in enumerate(pairs):
        one = crop(pair, 2, 1, 20, 30)
        assert torch.equal(batch.a[i : i + 1], one.a)
        assert torch.equal(batch.target[i]["boxes"], one.target[0]["boxes"])


def test_windows_and_sizes_that_cannot_be() -> None:
    pair = marked(1, 1, 5, 5, "boxes")
    for window in ((-1, 0, 4, 4), (0, 0, 0, 4), (21, 0, 4, 4), (0, 37, 4, 4)):
        with pytest.raises(ValueError, match="a window must lie in its image of 40x24"):
            crop(pair, *window)
    with pytest.raises(ValueError, match="at least 1 pixel each"):
        resize(pair, (0, 4))


@given(rectangles(), st.integers(-4, 7), st.sampled_from(["masks", "boxes"]))
def test_turns_carry_their_labels(thing: tuple[int, int, int, int], quarters: int, kind: str) -> None:
    pair = marked(*thing, kind)
    turned = rotate_quarters(pair, quarters)
    assert fits(turned) and turned.a.shape[2:] == ((WIDTH, HEIGHT) if quarters % 2 else (HEIGHT, WIDTH))
    back = rotate_quarters(turned, -quarters)
    assert torch.equal(back.a, pair.a) and fits(back)


def test_a_turned_crop_lies_in_all_eight_ways_and_the_pair_stays_together() -> None:
    image = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    mask = (image[:, 0] * 9).long()
    ways = [
        rotate_quarters(flip(Pair(image, image)) if mirrored else Pair(image, image), k).a
        for mirrored in (0, 1)
        for k in range(4)
    ]
    seen = [0] * 8
    for seed in range(200):
        found = random_crop(Pair(image, 1 - image, mask), 5, torch.Generator().manual_seed(seed), turns=True)
        [way] = [i for i, x in enumerate(ways) if torch.equal(x, found.a)]
        seen[way] += 1
        assert torch.equal(found.b, 1 - found.a) and torch.equal(found.target, (found.a[:, 0] * 9).long())
        plain = random_crop(Pair(image, image), 5, torch.Generator().manual_seed(seed))
        assert torch.equal(plain.a, ways[4 * (way // 4)]), "the other draws are as without turns"
    assert min(seen) > 10, seen
