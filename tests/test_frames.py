"""Frames of a clip together in the networks' batches: `Marigold.predict_frames`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_engine import build, limit_batches

from marigold_core import MarigoldError, Options, Progress

FRAMES = [
    np.random.default_rng(number).random((40, 56, 3), dtype=np.float32) for number in range(5)
]


@pytest.mark.parametrize(("family", "members"), [("v1-1", 1), ("v1-1", 2), ("lcm", 2), ("e2e", 1)])
def test_frames_together_are_the_frames_one_at_a_time(family, members):
    marigold = build(family, num_inference_steps=1 if family == "e2e" else 2)
    options = Options(ensemble_size=members, seed=7)
    alone = [marigold.predict(frame, options) for frame in FRAMES]
    assert (alone[0] - alone[1]).abs().max() > 0.01
    batches = limit_batches(marigold, 64)
    for batch_size in (None, 1, 2, 4, 64):
        together = list(marigold.predict_frames(FRAMES, options, batch_size=batch_size))
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    # The last time all members of all frames went through the network at once.
    assert batches[-1] == len(FRAMES) * members


class Reads(list):
    """A clip that notes which frames are read."""

    def __init__(self, frames):
        super().__init__(frames)
        self.read = []

    def __getitem__(self, number):
        self.read.append(number)
        return super().__getitem__(number)


def test_a_clip_is_read_a_few_frames_at_a_time():
    clip = Reads(FRAMES)
    results = build().predict_frames(clip, seed=0, batch_size=4, ensemble_size=2)
    next(results)
    assert clip.read == [0, 1]
    next(results)
    next(results)
    assert clip.read == [0, 1, 2, 3]
    assert len(list(results)) == 2 and clip.read == [0, 1, 2, 3, 4]


def test_frames_that_do_not_fit_together_are_halved_and_none_changes():
    marigold = build()
    expected = list(marigold.predict_frames(FRAMES, seed=3, batch_size=1))
    batches = limit_batches(marigold, 2)
    got = list(marigold.predict_frames(FRAMES, seed=3, batch_size=5))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert max(batches[1:]) == 2


def test_the_progress_of_a_clip_is_one_bar_and_its_times_are_sums():
    seen: list[Progress] = []
    seconds: dict[str, float] = {}
    clip = build().predict_frames(
        FRAMES, seed=0, ensemble_size=2, batch_size=4, callback=seen.append, seconds=seconds
    )
    next(clip)
    after_one = dict(seconds)
    list(clip)
    steps = [progress.step for progress in seen]
    # 5 frames of 2 members, 2 steps and a decoding each.
    assert steps == sorted(steps) and steps[-1] == 5 * 2 * 3
    assert {progress.total for progress in seen} == {30}
    assert all(seconds[stage] > after_one[stage] for stage in ("encode", "denoise", "decode"))


def test_a_clip_without_frames_and_a_frame_of_another_size():
    with pytest.raises(MarigoldError, match="no frames"):
        next(build().predict_frames([]))
    other = [*FRAMES[:2], FRAMES[2][:30]]
    with pytest.raises(MarigoldError, match="Frame 3 has 56 x 30 pixels and frame 1 has 56 x 40"):
        list(build().predict_frames(other))
