"""Errors of numbers against scikit-learn."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from vision_peft.tasks.quantities import explained_shares, mean_absolute_errors, root_mean_square_errors


@pytest.mark.parametrize("seed", range(3))
def test_errors_are_scikit_learns_whatever_the_order_also_of_what_does_not_vary(seed):
    state = np.random.default_rng(seed)
    truth = np.round(state.normal(1000, [1, 50, 0, 0], (77, 4)), 1)  # with ties; two columns do not vary
    answers = truth + state.normal(0, [0.5, 30, 1, 0], (77, 4))
    one, two = torch.from_numpy(answers), torch.from_numpy(truth)
    raw: Any = {"multioutput": "raw_values"}
    assert mean_absolute_errors(one, two) == pytest.approx(mean_absolute_error(truth, answers, **raw), abs=1e-9)
    assert root_mean_square_errors(one, two) == pytest.approx(root_mean_squared_error(truth, answers, **raw), abs=1e-9)
    assert explained_shares(one, two) == pytest.approx(r2_score(truth, answers, **raw), abs=1e-9)
    order = torch.randperm(77, generator=torch.Generator().manual_seed(seed))
    for figure in (mean_absolute_errors, root_mean_square_errors, explained_shares):
        assert figure(one[order], two[order]) == figure(one, two)
