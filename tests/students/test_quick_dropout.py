import pytest
import torch
from torch import nn

from distill.students.quick_dropout import QuickDropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_is_left_out_and_the_rest_keeps_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    given = torch.ones(999, 101, dtype=dtype, requires_grad=True)  # 100,899 values: not a whole number of words
    with QuickDropout():
        found = nn.Dropout(0.25)(given)
    assert found.dtype == dtype
    kept = found[found != 0]
    # 1 / (1 - .25), which bfloat16 rounds to 1.3359375.
    assert kept.unique().tolist() == pytest.approx([4 / 3], rel=1e-7 if dtype == torch.float32 else 2e-3)
    # Five standard errors of a share: 5 * sqrt(.25 * .75 / 100,899) = .0068.
    assert len(kept) / found.numel() == pytest.approx(0.75, abs=0.0068)
    found.backward(torch.full_like(found, 2.0))
    assert given.grad is not None
    torch.testing.assert_close(given.grad, 2 * found.detach())


def test_draws_do_not_hang_together() -> None:
    torch.manual_seed(0)
    with QuickDropout():
        zero = (torch.nn.functional.dropout(torch.ones(400_000), 0.5) == 0).float()
    # Of neighbours within and across the words that are drawn: five standard errors are 5 / sqrt(400,000) = .008.
    for lag in (1, 2, 3, 4, 5):
        both = torch.corrcoef(torch.stack([zero[lag:], zero[:-lag]]))[0, 1]
        assert abs(float(both)) < 0.008


def test_the_same_seed_draws_the_same() -> None:
    def drawn() -> torch.Tensor:
        torch.manual_seed(3)
        with QuickDropout():
            return torch.nn.functional.dropout(torch.ones(64, 7), 0.1)

    assert torch.equal(drawn(), drawn())


def test_what_is_not_dropped_is_left_alone() -> None:
    given = torch.randn(5, 5)
    with QuickDropout():
        assert torch.equal(nn.Dropout(0.5).eval()(given), given)
        assert torch.equal(torch.nn.functional.dropout(given, 0.0), given)
        assert (torch.nn.functional.dropout(given, 1.0) == 0).all()
        assert torch.nn.functional.dropout(given.double(), 0.5).dtype == torch.float64
