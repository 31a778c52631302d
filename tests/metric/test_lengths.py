"""Known lengths and the camera's height, alone and beside known depths."""

from __future__ import annotations

import numpy as np
import pytest

from marigold_core.depth import DepthMap
from marigold_core.errors import MarigoldError
from marigold_core.geometry.points import intrinsics, project, unproject
from marigold_core.metric.fit import fit_metric
from marigold_core.metric.hints import KnownDepths

SIZE = (60, 80)
FOV = 60.0


def room() -> np.ndarray:
    """z of a floor 1.5 m below a camera that looks 10 degrees down, and a wall 6 m away."""
    k = intrinsics(*SIZE, FOV)
    v = (np.arange(SIZE[0]) + 0.5 - k[1, 2]) / k[1, 1]
    down = np.radians(10)
    drop = v * np.cos(down) + np.sin(down)  # of a ray with z = 1, along gravity
    floor = np.where(drop > 0, 1.5 / np.maximum(drop, 1e-9), np.inf)
    return np.minimum(floor, 6.0)[:, None].repeat(SIZE[1], 1)


TRUTH = room()
MAP = DepthMap(((TRUTH - TRUTH.min()) / np.ptp(TRUTH)).astype(np.float32))


def length(first: tuple[int, int], second: tuple[int, int], truth=TRUTH) -> tuple[float, ...]:
    """The tape between two (row, column) pixels."""
    points = unproject(truth.astype(np.float32), fov_degrees=FOV, near=None, far=None)
    ends = points[first], points[second]
    (x1, y1), (x2, y2) = project(np.array(ends), *SIZE, fov_degrees=FOV)
    return x1, y1, x2, y2, float(np.linalg.norm(ends[0] - ends[1]))


def known(**hints) -> KnownDepths:
    points = hints.pop("points", [])
    positions = [(column + 0.5, row + 0.5) for row, column in points]
    metres = [TRUTH[pixel] for pixel in points]
    return KnownDepths(positions, metres, size=SIZE, fov_degrees=FOV, **hints)


LENGTHS = [length((59, 10), (59, 70)), length((5, 10), (5, 70)), length((59, 40), (10, 40))]


@pytest.mark.parametrize(
    "hints",
    [
        {"lengths": LENGTHS},
        {"lengths": LENGTHS[:2]},
        {"lengths": LENGTHS[:1], "points": [(5, 5)]},
        {"camera_height": 1.5, "points": [(5, 5)]},
        {"camera_height": 1.5, "lengths": LENGTHS[1:2]},
        {"camera_height": 1.5, "points": [(5, 5), (58, 5), (40, 40)], "lengths": LENGTHS},
        {"camera_height": 1.5, "points": [(5, 5)],
         "ground": [(3, 57), (40, 58), (70, 57), (60, 50), (20, 51)]},
    ],
)  # fmt: skip
def test_lengths_and_heights_fix_scale_and_shift(hints):
    result = fit_metric(MAP, known(**hints))
    np.testing.assert_allclose(result.depth, TRUTH, rtol=0.02)
    assert result.is_metric
    assert not result.fit.notes


@pytest.mark.parametrize("hints", [{"lengths": LENGTHS[:1]}, {"camera_height": 1.5}])
def test_one_of_them_fixes_the_scale_alone(hints):
    """The relief is that of the room's planes; of a map that has none it is the default."""
    result = fit_metric(MAP, known(**hints))
    np.testing.assert_allclose(result.depth, TRUTH, rtol=0.15)
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    hills = DepthMap((0.5 + 0.5 * np.sin(x / 5) * np.cos(y / 6)).astype(np.float32))
    usual = fit_metric(hills, known(**hints)).depth
    assert usual.max() / usual.min() == pytest.approx(5, rel=0.01)
    assert not result.fit.shift_fitted
    if "lengths" in hints:
        again = length((59, 10), (59, 70), result.depth)
        assert again[4] == pytest.approx(LENGTHS[0][4], rel=1e-3)


def test_one_wrong_length_of_many_does_not_matter_and_is_named():
    wrong = (*LENGTHS[0][:4], LENGTHS[0][4] / 0.3048)
    result = fit_metric(MAP, known(lengths=[wrong, *LENGTHS[1:]], points=[(5, 5), (58, 5)]))
    np.testing.assert_allclose(result.depth, TRUTH, rtol=0.02)
    assert result.fit.notes == (
        "Known length 1 is 3.28 times what the other hints make of it: is it in feet?",
    )


def test_a_reconstruction_has_no_metres_until_a_length_gives_them():
    points = [(5, 5), (58, 5), (40, 40), (50, 70), (30, 20), (45, 60)]
    model = KnownDepths(
        [(column + 0.5, row + 0.5) for row, column in points],
        [TRUTH[pixel] * 7 for pixel in points],
        size=SIZE,
        fov_degrees=FOV,
        in_metres=False,
    )
    result = fit_metric(MAP, model)
    assert (result.scale_invariant, result.shift_invariant) == (True, False)
    assert "reconstruction's units" in result.fit.notes[0]
    np.testing.assert_allclose(result.depth, TRUTH * 7, rtol=1e-3)
    lengths = known(lengths=LENGTHS[:1]).lengths
    scaled = fit_metric(
        MAP,
        KnownDepths(
            model.positions, model.metres, size=SIZE, fov_degrees=FOV, in_metres=False,
            lengths=lengths,
        ),
    )  # fmt: skip
    assert scaled.is_metric
    np.testing.assert_allclose(scaled.depth, TRUTH, rtol=1e-3)


def test_furniture_on_the_floor_does_not_lift_it():
    truth = TRUTH.copy()
    truth[45:, 50:65] = 2.0
    depth = DepthMap(((truth - truth.min()) / np.ptp(truth)).astype(np.float32))
    result = fit_metric(depth, known(camera_height=1.5, points=[(5, 5)]))
    np.testing.assert_allclose(result.depth, truth, rtol=0.05)


def test_an_unknown_field_of_view_is_said():
    hints = KnownDepths([], [], size=SIZE, lengths=LENGTHS)
    assert "No field of view is known" in fit_metric(MAP, hints).fit.notes[0]
    assert not fit_metric(MAP, hints, fov_degrees=FOV).fit.notes


def test_ends_and_ground_without_depth_are_refused():
    mask = np.zeros(SIZE, bool)
    mask[:10] = True
    masked = DepthMap(MAP.depth, mask=mask)
    with pytest.raises(MarigoldError, match="end of a known length lies where"):
        fit_metric(masked, known(lengths=LENGTHS[:1]))
    with pytest.raises(MarigoldError, match="ground pixels lie where"):
        fit_metric(masked, known(camera_height=1.5))
