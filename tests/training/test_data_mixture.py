"""Mixed batches: the paper's shares, every sample once a round, and exact resumption."""

from __future__ import annotations

from collections import Counter

import pytest
from data.mixture import Mixture
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core.errors import MarigoldError


class Numbers:
    """Samples whose shapes go round `shapes`."""

    def __init__(self, count: int, shapes: tuple[tuple[int, int], ...] = ((8, 8),)) -> None:
        self.count, self.shapes = count, shapes

    def __len__(self) -> int:
        return self.count

    def shape(self, index: int) -> tuple[int, int]:
        return self.shapes[index % len(self.shapes)]


def test_the_papers_shares():
    mixture = Mixture([Numbers(500), Numbers(300)], [0.9, 0.1], seed=2024, batch_size=2)
    counts = Counter(mixture.draw(n).dataset for n in range(20_000))
    # Five standard deviations of a binomial: sqrt(0.9 * 0.1 / 20000) = 0.0021.
    assert counts[0] / 20_000 == pytest.approx(0.9, abs=0.0106)


def test_every_sample_once_a_round_in_a_new_order():
    mixture = Mixture([Numbers(12)], [1], seed=0, batch_size=3)
    rounds = [[mixture.draw(n).indices for n in range(k * 4, k * 4 + 4)] for k in range(3)]
    for batches in rounds:
        assert sorted(i for batch in batches for i in batch) == list(range(12))
    assert rounds[0] != rounds[1] != rounds[2]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.lists(st.integers(0, 9000), min_size=1))
def test_a_batch_depends_on_its_number_alone(seed, size, positions):
    def fresh():
        return Mixture([Numbers(9, ((8, 8), (8, 16))), Numbers(5)], [3, 1], seed, size)

    walked = fresh()
    expected = {n: walked.draw(n) for n in sorted(positions)}
    jumped = fresh()
    for n in positions:
        assert fresh().draw(n) == jumped.draw(n) == expected[n]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 200))
def test_batches_are_full_and_of_one_shape_and_one_data_set(count, size, position):
    dataset = Numbers(count, ((8, 8), (8, 16), (16, 8)))
    batch = Mixture([dataset], [1.0], 7, size).draw(position)
    assert len(batch.indices) == size
    assert len({dataset.shape(index) for index in batch.indices}) == 1


@pytest.mark.parametrize(
    ("count", "weights"), [(2, [1]), (1, [0]), (1, [-1]), (1, [float("nan")]), (0, [])]
)
def test_wrong_weights(count, weights):
    with pytest.raises(MarigoldError):
        Mixture([Numbers(3)] * count, weights, 0)


def test_an_empty_data_set_matters_only_where_it_has_a_share():
    with pytest.raises(MarigoldError, match="empty"):
        Mixture([Numbers(0)], [1], 0)
    assert Mixture([Numbers(3), Numbers(0)], [1, 0], 0).draw(5).dataset == 0
