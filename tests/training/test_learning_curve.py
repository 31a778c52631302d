"""learning_curve.py: runs stand one after another, by the pictures that each has seen."""

from __future__ import annotations

import json

import pytest
from learning_curve import main, read_curves

from marigold_core.errors import MarigoldError

writers = pytest.importorskip("torch.utils.tensorboard", reason="the logs need tensorboard")


def run(folder, batch_size: int, steps: int, errors: dict[int, float]):
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps({"batch_size": batch_size, "steps_done": steps}))
    with writers.SummaryWriter(str(folder / "run" / "logs")) as writer:
        for step, error in errors.items():
            writer.add_scalar("train/loss", 1.0, step)
            writer.add_scalar("val/folder:rooms/AbsRel", error, step)
            writer.add_scalar("val/folder:rooms/delta1", 1 - error, step)
    return folder


def test_a_run_begins_where_the_one_before_ended(tmp_path):
    first = run(tmp_path / "a", 32, 30, {10: 0.5, 20: 0.4})
    second = run(tmp_path / "b", 8, 50, {50: 0.25})
    (curve,) = read_curves([first, second])
    assert curve.data == "folder:rooms"
    assert curve.seen == [320, 640, 30 * 32 + 50 * 8]
    assert curve.values["AbsRel"] == pytest.approx([0.5, 0.4, 0.25])
    assert curve.values["delta1"] == pytest.approx([0.5, 0.6, 0.75])


def test_the_plot_has_the_lines_of_an_evaluation(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    from PIL import Image

    folder = run(tmp_path / "a", 32, 30, {10: 0.5, 20: 0.4})
    rows = [{"method": name, "mean": {"abs_rel": 0.7, "delta1": 0.3}} for name in ("ramp", "4x1")]
    (tmp_path / "results.json").write_text(json.dumps({"data": [{"results": rows}]}))
    output = tmp_path / "curve.png"
    main([str(folder), "--output", str(output)])
    with Image.open(output) as plain:
        without = plain.convert("RGB").tobytes()
    main([str(folder), "--output", str(output), "--lines", str(tmp_path / "results.json")])
    with Image.open(output) as plot:
        assert plot.convert("RGB").tobytes() != without


def test_what_is_no_run_is_said_in_a_sentence(tmp_path):
    with pytest.raises(MarigoldError, match="no folder that finetune.py wrote"):
        read_curves([tmp_path])
    with pytest.raises(MarigoldError, match="Nothing was validated"):
        read_curves([run(tmp_path / "a", 32, 30, {})])
    (tmp_path / "results.json").write_text("{}")
    folder = run(tmp_path / "b", 32, 30, {10: 0.5})
    with pytest.raises(SystemExit, match="no results.json"):
        main([str(folder), "--lines", str(tmp_path / "results.json")])
