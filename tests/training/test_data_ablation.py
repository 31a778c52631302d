"""The ablation of training data: what it trains, and its table."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import data_ablation
import pytest
from evaluate import arguments as evaluation_arguments
from recipe import read_recipe

KINDS = ["rays=procedural:20", "worlds=folder:w"]


def test_every_kind_is_trained_alone_and_all_of_them_together_with_every_seed(
    tmp_path, monkeypatch, capsys
):
    trained, measured = [], []

    def stand_in(command, **_):
        program, arguments = Path(command[1]).name, command[2:]
        if program == "finetune.py":
            # finetune.py's own parser takes the command.
            trained.append(read_recipe("", arguments))
            return
        args = evaluation_arguments(arguments)
        measured.append(args)
        # The error of a run is its seed / 10, twice that on the second set.
        data = [
            {"spec": spec, "results": [
                {"checkpoint": "", "mean": {"abs_rel": 9, "delta1": 9}},
                *({"checkpoint": c, "mean": {"abs_rel": int(c[-1]) * k / 10, "delta1": 0.5}}
                  for c in args.checkpoints),
            ]}
            for k, spec in enumerate(args.data, start=1)
        ]  # fmt: skip
        args.output.mkdir(parents=True)
        (args.output / "results.json").write_text(json.dumps({"data": data}))

    monkeypatch.setattr(subprocess, "run", stand_in)
    data_ablation.main(
        [str(tmp_path), "--base", "b", "--kinds", *KINDS, "--held-back", "procedural:5", "folder:h",
         "--seeds", "1", "3", "--steps", "7", "--", "--dropout", "0.1"]
    )  # fmt: skip
    assert [(r.data, r.seed) for r in trained] == [
        (data, seed)
        for data in (["procedural:20"], ["folder:w"], ["procedural:20", "folder:w"])
        for seed in (1, 3)
    ]
    assert {(r.steps, r.decay_steps, r.dropout, r.resume) for r in trained} == {(7, 7, 0.1, True)}
    # The recipe's default for two sets is the paper's mixture, which this is not about.
    assert trained[-1].weights == [0.5, 0.5]
    assert len({r.output for r in trained}) == 6 and len(measured) == 1
    table = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out == table
    rows = [line for line in table.splitlines() if line.startswith(("| rays", "| worlds", "| all"))]
    assert len(rows) == 3
    assert all("| 0.200 ± 0.141 / 0.500 | 0.400 ± 0.283 / 0.500 |" in row for row in rows)


@pytest.mark.parametrize("text", ["folder:w", "=folder:w", "all=folder:w", "rays="])
def test_a_kind_without_a_name_is_refused(text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        data_ablation.main([str(tmp_path), "--base", "b", "--held-back", "x:1", "--kinds", text])
    assert "NAME=KIND:WHERE" in capsys.readouterr().err
