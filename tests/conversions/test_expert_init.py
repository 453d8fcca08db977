"""Fused experts that do not begin as copies: their mean and deviation."""

import pytest
import torch

from xft.conversions.expert_init import mean_and_std

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("shape", [(3, 5), (1300, 700), (1, 1)])
def test_mean_and_deviation_on_any_number_of_threads(shape):
    matrix = torch.randn(shape) + 0.5
    found = mean_and_std(matrix)
    expected = matrix.double().mean().item(), matrix.double().std(correction=0).item()
    assert found == pytest.approx(expected, rel=1e-12)
    torch.set_num_threads(3)
    assert mean_and_std(matrix) == found
