import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.classification import MulticlassJaccardIndex

from acr.measures import (
    BINS,
    THRESHOLDS,
    Confusion,
    average_precision,
    bins_of,
    confusion,
    curve,
    otsu,
    otsu_threshold,
    score_histogram,
    threshold_confusions,
)
from benchmarks import reference

# 3 background pixels, 3 of class 1, 1 of class 2; class 3 in neither
COUNTS = np.array([[2, 1, 0, 0], [1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])


def test_confusion_counts_truth_by_row_and_leaves_void_out():
    truth = np.array([[0, 0, 0, 1, 255], [1, 1, 2, 255, 255]], np.uint8)
    prediction = np.array([[0, 0, 1, 0, 2], [1, 1, 1, 0, 1]], np.uint8)
    assert confusion(truth, prediction, 4).counts.tolist() == COUNTS.tolist()


def test_iou_and_rates_by_hand():
    total = Confusion(COUNTS)
    np.testing.assert_allclose(total.iou(), [2 / 4, 2 / 5, 0, np.nan])
    assert total.miou() == pytest.approx(30.0)
    # false positives: 1 of 4, 2 of 5, 0 of 1; misses: 1 of 4, 1 of 5, 1 of 1
    assert total.false_positive() == pytest.approx(100 * (1 / 4 + 2 / 5 + 0) / 3)
    assert total.false_negative() == pytest.approx(100 * (1 / 4 + 1 / 5 + 1) / 3)


def test_confusions_add():
    assert (Confusion(COUNTS) + Confusion(COUNTS)).counts.tolist() == (2 * COUNTS).tolist()
    assert (Confusion(COUNTS) + Confusion(COUNTS)).miou() == Confusion(COUNTS).miou()


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(2, 6))
def test_the_iou_of_several_images_is_that_of_torchmetrics(data, classes):
    """Of the totals over images, not a mean over them; an absent class is left out of the mean, where none is 0 there."""
    value = st.integers(0, classes - 1)
    each, mean = (MulticlassJaccardIndex(classes, average, ignore_index=255) for average in ("none", "macro"))
    total = Confusion(np.zeros((classes, classes), np.int64))
    for size in data.draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4)):
        truth = data.draw(arrays(np.uint8, size, elements=st.one_of(value, st.just(255))))
        prediction = data.draw(arrays(np.uint8, size, elements=value))
        total += confusion(truth, prediction, classes)
        for metric in (each, mean):
            metric.update(torch.from_numpy(prediction).long()[None], torch.from_numpy(truth).long()[None])
    # single precision there
    np.testing.assert_allclose(np.nan_to_num(total.iou()), each.compute().numpy(), rtol=0, atol=1e-6)
    assert total.miou() == pytest.approx(100 * mean.compute().item(), abs=1e-4, nan_ok=True)


def test_nothing_seen_is_not_a_number():
    empty = Confusion(np.zeros((3, 3), np.int64))
    assert np.isnan([empty.miou(), empty.false_positive(), empty.false_negative(), *empty.iou()]).all()


@given(arrays(np.int64, (4, 4), elements=st.integers(0, 10**6)))
def test_a_union_is_hits_false_positives_and_misses(counts):
    total = Confusion(counts)
    parts = total.miou() + total.false_positive() + total.false_negative()
    assert np.isnan(parts) if counts.sum() == 0 else parts == pytest.approx(100)


def test_the_thresholds_are_the_official_ones_in_float32():
    assert THRESHOLDS.dtype == np.float32
    assert THRESHOLDS.tolist() == [np.float32(i * 0.01).item() for i in range(100)]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 3))
def test_the_curve_equals_brute_force_to_the_last_bit(data, present):
    indices = sorted(data.draw(st.permutations(range(5)))[:present])
    # scores on, just below and just above the thresholds, and ties between maps
    near = st.sampled_from([*THRESHOLDS.tolist(), *np.nextafter(THRESHOLDS[1:], 0).tolist(), 1.0])
    score = st.one_of(near, st.floats(0, 1, width=32))
    maps = data.draw(arrays(np.float32, (present, 3, 4), elements=score))
    truth = data.draw(arrays(np.uint8, (3, 4), elements=st.sampled_from([0, 1, 2, 3, 4, 5, 255])))
    confusions = threshold_confusions(score_histogram(truth, maps, indices, 6))
    seeds = dict(zip(indices, maps, strict=True))
    hits, predicted, true = np.stack([reference.threshold_counts([truth], [seeds], t, 6) for t in THRESHOLDS], axis=1)
    assert (confusions.diagonal(axis1=1, axis2=2) == hits).all()
    assert (confusions.sum(axis=1) == predicted).all()
    assert (confusions.sum(axis=2) == true).all()
    np.testing.assert_array_equal(curve(confusions), [Confusion(counts).miou() for counts in confusions])


def test_a_tie_with_the_threshold_is_background():
    scores = np.array([0, 0.07, np.nextafter(np.float32(0.07), np.float32(1)), 0.99, 1], np.float32)
    assert bins_of(scores).tolist() == [0, 7, 8, 99, 100]
    near = np.concatenate([THRESHOLDS, np.nextafter(THRESHOLDS, np.float32(2)), np.nextafter(THRESHOLDS[1:], np.float32(0))])
    assert (bins_of(near) == (THRESHOLDS[None] < near[:, None]).sum(axis=1)).all()
    assert bins_of(np.nextafter(np.ones(1, np.float32), np.float32(2))) == 100  # as interpolation may give


def otsu_by_definition(histogram):
    """Between-class variance w0 w1 (mu0 - mu1)^2 of every split, one at a time."""
    variances = []
    for k in range(BINS - 1):
        low, high = histogram[: k + 1], histogram[k + 1 :]
        if low.sum() == 0 or high.sum() == 0:
            variances.append(0.0)
            continue
        means = [np.average(np.arange(BINS)[part], weights=histogram[part]) for part in (slice(k + 1), slice(k + 1, None))]
        variances.append(low.sum() * high.sum() * (means[0] - means[1]) ** 2)
    return variances


@given(arrays(np.int64, (BINS,), elements=st.integers(0, 50)).filter(lambda h: h.sum() > 0))
def test_otsu_splits_with_the_largest_variance(histogram):
    variances = otsu_by_definition(histogram)
    assert variances[otsu(histogram)] == pytest.approx(max(variances))


def test_otsu_lies_in_the_middle_of_a_gap():
    histogram = np.zeros(BINS, np.int64)
    histogram[[10, 60]] = 7, 3
    assert otsu(histogram) == (10 + 59) // 2


def test_otsu_from_maps_pools_every_cell():
    low, high = np.full((1, 4, 4), 0.2, np.float16), np.full((2, 2, 3), 0.8, np.float16)
    high[1] = 0.1  # not the best score
    assert otsu_threshold([low, high, np.zeros((0, 1, 1), np.float16)]) == pytest.approx(0.5, abs=0.011)
    with pytest.raises(ValueError, match="no localisation map"):
        otsu_threshold([])


def test_average_precision_by_hand():
    scores = np.array([[0.9, 4, 1], [0.8, 3, 1], [0.7, 2, 1], [0.6, 1, 1]])
    tags = np.array([[1.0, 0, 1], [0, 0, 0], [1, 0, 0], [1, 0, 0]])
    # (1 + 2/3 + 3/4) / 3; no positive; one positive among four equal scores
    np.testing.assert_allclose(average_precision(scores, tags), [100 * (1 + 2 / 3 + 3 / 4) / 3, np.nan, 25])


@given(arrays(np.float64, (7, 1), elements=st.integers(0, 4)), arrays(np.float64, (7, 1), elements=st.integers(0, 1)))
def test_average_precision_of_ties_does_not_depend_on_their_order(scores, tags):
    order = np.random.default_rng(0).permutation(7)
    np.testing.assert_array_equal(average_precision(scores, tags), average_precision(scores[order], tags[order]))
