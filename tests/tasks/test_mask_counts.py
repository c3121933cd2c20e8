"""Figures of masks against references written out pixel by pixel."""

import math

import pytest
import torch

from vision_peft.tasks.mask_counts import IGNORE, TOLERANCE, MaskCounts, find_edges, widen
from vision_peft.tasks.upsample import find_classes, upsample, upsample_rows


def write_out(pairs, classes):
    """IoU of every class, None where nothing has it, and the share of right pixels, in plain Python."""
    right = true = 0
    shares = []
    for number in range(classes):
        both = either = 0
        for predicted, mask in pairs:
            for found, wanted in zip(predicted.flatten().tolist(), mask.flatten().tolist(), strict=True):
                if wanted == IGNORE:
                    continue
                both += found == number and wanted == number
                either += found == number or wanted == number
        shares.append(both / either if either else None)
    for predicted, mask in pairs:
        for found, wanted in zip(predicted.flatten().tolist(), mask.flatten().tolist(), strict=True):
            right += found == wanted
            true += wanted != IGNORE
    return shares, right / true


def draw(seed, classes=6, present=4):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(9, 7), (5, 12), (1, 3)]
    pairs = []
    for size in sizes:
        mask = torch.randint(0, present, size, generator=generator)
        mask[torch.rand(size, generator=generator) < 0.3] = IGNORE
        pairs.append((torch.randint(0, classes - 1, size, generator=generator), mask))
    return pairs


@pytest.mark.parametrize("seed", range(5))
def test_iou_and_accuracy_are_those_written_out(seed):
    pairs, counts = draw(seed), MaskCounts(6)
    for predicted, mask in pairs:
        counts.add(predicted, mask)
    shares, accuracy = write_out(pairs, 6)
    for found, wanted in zip(counts.iou().tolist(), shares, strict=True):
        assert math.isnan(found) if wanted is None else abs(found - wanted) < 1e-9
    assert counts.iou()[5].isnan()  # neither mask has it
    assert counts.iou()[4] == 0  # predicted, never there
    assert abs(counts.accuracy() - accuracy) < 1e-9


def reference_boundary(predicted, mask, classes):
    """Counts (4 classes) by distances between all pairs of boundary pixels."""
    height, width = mask.shape
    radius = math.ceil(TOLERANCE * math.hypot(height, width))
    seen = torch.where(mask == IGNORE, IGNORE, predicted)

    def edges(image, number):
        found = []
        for y in range(height):
            for x in range(width):
                near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
                inside = [image[place].item() for place in near if 0 <= place[0] < height and 0 <= place[1] < width]
                if image[y, x] == number and any(other not in (number, IGNORE) for other in inside):
                    found.append((y, x))
        return found

    def close(one, others):
        return sum(any(max(abs(y - b), abs(x - a)) <= radius for b, a in others) for y, x in one)

    columns = []
    for number in range(classes):
        mine, theirs = edges(seen, number), edges(mask, number)
        columns.append([len(mine), close(mine, theirs), len(theirs), close(theirs, mine)])
    return torch.tensor(columns).T


@pytest.mark.parametrize("size", [(12, 9), (4, 140)])  # within 1 pixel, and 2
def test_boundaries_are_those_written_out(size):
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 3, (size[0] // 2, size[1] // 2), generator=generator)
    mask = mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
    mask = torch.nn.functional.pad(mask, (0, size[1] % 2, 0, 0), value=1)
    predicted = torch.where(torch.rand(size, generator=generator) < 0.2, 1, mask.roll(1, 1))
    mask[1, :3] = IGNORE
    counts = MaskCounts(4)
    counts.add(predicted, mask)
    wanted = reference_boundary(predicted, mask, 4)
    assert torch.equal(counts.boundary, wanted)
    seen, seen_near, true, true_near = wanted[:, :3].double()
    precision, recall = seen_near / seen, true_near / true
    torch.testing.assert_close(
        counts.boundary_f()[:3], 2 * precision * recall / (precision + recall), rtol=0, atol=1e-9
    )
    assert counts.boundary_f()[3].isnan()


def test_a_boundary_that_is_missed_altogether_scores_0_and_not_nothing():
    mask = torch.zeros(8, 8, dtype=torch.int64)
    mask[:, 4:] = 1
    counts = MaskCounts(2)
    counts.add(torch.zeros_like(mask), mask)
    assert counts.boundary_f().tolist() == [0, 0]


def test_what_touches_a_pixel_without_a_class_is_no_boundary():
    mask = torch.tensor([[0, IGNORE, 1]])
    assert not find_edges(mask).any()
    assert find_edges(torch.tensor([[0, 1]])).all()
    assert not widen(find_edges(mask), 2).any()


def test_images_add_up_in_any_order_to_the_same_whole_numbers():
    pairs = draw(3)
    one, other = MaskCounts(6), MaskCounts(6)
    for predicted, mask in pairs:
        one.add(predicted, mask)
    for predicted, mask in pairs[::-1]:
        other.add(predicted, mask)
    assert torch.equal(one.confusion, other.confusion)
    assert torch.equal(one.boundary, other.boundary)
    assert one.confusion.dtype == torch.int64


@pytest.mark.parametrize(
    ("places", "size"), [((3, 5), (17, 23)), ((12, 16), (192, 256)), ((7, 7), (3, 4)), ((4, 4), (4, 4))]
)
def test_rows_are_scaled_as_the_whole_is(monkeypatch, places, size):
    answers = torch.randn(5, *places, generator=torch.Generator().manual_seed(1))
    whole = upsample(answers[None], size)[0]
    monkeypatch.setattr("vision_peft.tasks.upsample.NUMBERS_AT_ONCE", 5 * size[1] * 2)
    rows = list(upsample_rows(answers, size))
    assert [part.start for part, _ in rows] == [*range(0, size[0], 2)]
    torch.testing.assert_close(torch.cat([part for _, part in rows], 1), whole, rtol=0, atol=1e-5)
    assert (find_classes(answers, size) == whole.argmax(0)).double().mean() > 0.995  # rounding may break ties


def test_the_confusion_is_by_truth_and_then_by_prediction():
    counts = MaskCounts(3)
    counts.add(torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 0, 0, IGNORE]]))
    assert counts.confusion.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0]]
    assert abs(counts.class_accuracy()[0].item() - 1 / 3) < 1e-9
    assert counts.class_accuracy()[1].isnan()
