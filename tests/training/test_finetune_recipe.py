"""Recipes: what flags and files mean, and what they may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("yaml", reason="training needs the extra [train]")
from recipe import build_parser, read_recipe  # noqa: E402

from marigold_core.errors import MarigoldError  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
NEEDED = ["--base", "b", "--output", "runs/o"]


def config(name: str, *more: str):
    return read_recipe(None, ["--config", str(CONFIGS / f"{name}.yaml"), *NEEDED, *more])


def test_the_defaults_are_the_released_recipe():
    recipe, from_file = read_recipe(None, NEEDED), config("v1-1")
    from_file.config = None
    assert vars(recipe) == vars(from_file)
    # Spec, section 3, from the authors' config/train_marigold_depth.yaml.
    assert (recipe.learning_rate, recipe.batch_size, recipe.micro_batch) == (3e-5, 32, 2)
    assert (recipe.steps, recipe.warmup, recipe.decay_steps) == (30000, 100, 25000)
    assert (recipe.noise_strength, recipe.noise_annealing) == (0.9, True)
    assert (recipe.objective, recipe.zero_snr, recipe.optimizer) == ("v_prediction", True, "adam")
    assert (recipe.max_grad_norm, recipe.ema, recipe.terminal_share) == (0, 0, 0)
    assert recipe.dropout == 0
    assert (recipe.flip, recipe.invalid, recipe.seed) == (True, "ignore", 2024)
    assert recipe.cache == Path("runs/latents")


def test_two_data_sets_are_mixed_as_the_authors_mix_theirs():
    recipe = read_recipe(None, [*NEEDED, "--data", "hypersim:a", "vkitti:b"])
    assert recipe.weights == [0.9, 0.1]


def test_the_papers_recipe_differs_in_schedule_and_length():
    paper, released = vars(config("paper")), vars(config("v1-1"))
    changed = {name for name in paper if paper[name] != released[name]}
    assert changed == {"config", "zero_snr", "steps", "default_steps"}
    assert paper["steps"] == 18000


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_config_is_a_recipe_and_flags_override_it(file):
    assert config(file.stem).base == "b"
    assert config(file.stem, "--steps", "7", "--no-flip").steps == 7
    assert config(file.stem, "--no-flip").flip is False


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("stepz: 3", "'stepz', which is not a flag"),
        ("steps: many", "steps to 'many', which it cannot be"),
        ("steps: 2.5", "steps to 2.5, which it cannot be"),
        ("flip: 1", "must be true or false"),
        ("objective: x0", "choose from v_prediction, epsilon, e2e"),
        ("data: procedural:8", "must be a list"),
        ("steps: [1]", "must be one value"),
        ("- steps", "must hold lines"),
        ("a: [", "is not YAML"),
        ("objective: epsilon", "add --no-zero-snr"),
        ("steps: 0", "--steps is below 1"),
        ("weights: [1, 2, 3]", "3 numbers for 1 data sets"),
        ("resolution: 100", "multiple of 8"),
        ("ema: 2", "--ema must be from 0 to 1"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, line, words):
    file = tmp_path / "recipe.yaml"
    file.write_text(line)
    with pytest.raises(MarigoldError, match=words.replace("[", r"\[")):
        read_recipe(None, ["--config", str(file), *NEEDED])


def test_a_rate_in_scientific_notation_is_a_number(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("learning_rate: 1e-4\n")  # a string to YAML 1.1
    assert read_recipe(None, ["--config", str(file), *NEEDED]).learning_rate == 1e-4


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(MarigoldError, match="--output is missing"):
        read_recipe(None, ["--base", "b"])
    with pytest.raises(MarigoldError, match="cannot be read"):
        read_recipe(None, [*NEEDED, "--config", str(tmp_path / "none.yaml")])


def test_every_flag_says_what_it_does():
    for action in build_parser(None)._actions:
        known = action.help or action.choices or action.dest in ("batch_size", "seed")
        plain = action.dest in ("learning_rate", "noise_annealing", "gradient_checkpointing")
        assert known or plain, action.dest
