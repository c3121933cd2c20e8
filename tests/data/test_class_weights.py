"""Class weights against the formula, and against scikit-learn's."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from vision_peft.data.class_weights import compute_class_weights

LABELS = [0] * 6 + [1] * 3 + [2]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert compute_class_weights(LABELS, 3, "balanced") == pytest.approx(expected.tolist())
    assert compute_class_weights(LABELS, 3, "balanced") == pytest.approx([10 / 18, 10 / 9, 10 / 3])


def test_a_class_that_does_not_occur_weighs_nothing_and_moves_no_other() -> None:
    assert compute_class_weights(LABELS, 4, "balanced") == [*compute_class_weights(LABELS, 3, "balanced"), 0.0]


def test_none_weighs_all_alike_and_another_word_is_refused() -> None:
    assert compute_class_weights(LABELS, 4, "none") == [1.0] * 4
    with pytest.raises(ValueError, match=r"unknown class weights 'balance' \(did you mean balanced\?\)"):
        compute_class_weights(LABELS, 3, "balance")


def test_effective_weights_are_those_of_the_formula_with_a_mean_of_one_over_the_labels() -> None:
    beta = 0.9
    inverse = [(1 - beta) / (1 - beta**count) for count in (6, 3, 1)]
    scale = 10 / (6 * inverse[0] + 3 * inverse[1] + inverse[2])
    assert compute_class_weights(LABELS, 3, "effective", beta) == pytest.approx([scale * each for each in inverse])
    assert compute_class_weights(LABELS, 4, "effective", beta)[3] == 0
    balanced, near = (compute_class_weights(LABELS, 3, how, 0.999999) for how in ("balanced", "effective"))
    assert near == pytest.approx(balanced, rel=1e-4)
    assert compute_class_weights(LABELS, 3, "effective", 0.0) == pytest.approx([1.0] * 3)
