"""Fine-tune a Stable Diffusion base, or a Marigold, into a checkpoint of your own.

    python training/finetune.py --base nano --data folder:pictures --output runs/mine
    python training/finetune.py --config training/configs/v1-1.yaml --base FOLDER_OR_HUB_ID \\
        --data hypersim:FOLDER vkitti:FOLDER --output runs/depth
    python training/finetune.py --target normals --base BASE --data folder:DATA --output runs/n
    accelerate launch training/finetune.py ...           # several GPUs or machines
    python training/finetune.py ... --resume             # after whatever stopped it

The U-Net learns to denoise the latent of the normalised depth map (--target: of normals, or the
latents of intrinsic images), given the latent of the picture; the VAE and the text encoder stay
frozen. OUTPUT becomes a complete checkpoint folder that `Marigold.from_pretrained` and diffusers'
Marigold pipelines open; OUTPUT/run holds the states to resume from and the logs. Every default is
the target's released recipe's; training/configs/ holds others as files. docs/training.md explains
every step.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from base_model import Base, add_lora, open_base, plain_weights, set_dropout
from batches import (
    LatentBatch,
    LatentBatches,
    dropout_seed,
    micro_batch_numbers,
    noise_generator,
    open_cache,
)
from checkpointing import load_state, save_state, states
from data.registry import open_dataset
from data_check import contact_sheet
from diffusers.training_utils import EMAModel
from objective import affine_error, denoising_loss, end_to_end_loss, learning_rate_factor
from recipe import read_recipe
from release import check_written, damage, write_fixed_parts, write_unet
from run_setup import make_optimizer, output_folder, start
from safetensors import SafetensorError
from targets import TARGETS
from torch import Tensor, nn
from tqdm import tqdm
from tracking import Tracker
from validation import validate, validation_samples

from marigold_core import Marigold
from marigold_core.errors import MarigoldError, is_out_of_memory
from marigold_core.files import exit_on_sigterm
from marigold_core.targets import WORDS

# After so many steps in a row without a finite loss the weights do not recover.
BAD_STEPS = 10


def main(argv: Sequence[str] | None = None) -> None:
    recipe = read_recipe(__doc__, argv)
    if recipe.check_data:
        check_data(recipe)
        return

    accelerator, accumulation = start(recipe)
    latents = TARGETS[recipe.target].latents
    base = open_base(recipe.base, recipe.objective, recipe.zero_snr, latents)
    with output_folder(recipe, base.folder, accelerator):
        train(recipe, accelerator, accumulation, base)


def train(recipe: Any, accelerator: Accelerator, accumulation: int, base: Base) -> None:
    """The whole run, from the data to the final checkpoint. Raises MarigoldError without one."""
    device, main_process = accelerator.device, accelerator.is_main_process
    run, target = recipe.output / "run", TARGETS[recipe.target]
    if base.target is not None and base.target != target.engine().name:
        accelerator.print(
            f"{recipe.base} estimates {WORDS[base.target]}; this run trains it to estimate "
            f"{recipe.target}."
        )
    wanted = base.scheduler_config["prediction_type"]
    if base.prediction_type != wanted:
        accelerator.print(
            f"{recipe.base} predicts {base.prediction_type}; this run trains it to predict "
            f"{wanted}, which takes longer than from a base that does."
        )
    base.vae.to(device)
    text_embedding = base.text_embedding.to(device)
    schedule = base.schedule.to(device)

    # Data: both latents of every sample on disk, so that a step never runs the VAE's encoder
    caches = [
        open_cache(accelerator, recipe, base, spec, variants)
        for spec, variants in zip(recipe.data, recipe.variants, strict=True)
    ]
    batches = LatentBatches(caches, recipe.weights, recipe.seed, recipe.micro_batch, recipe.flip)
    # A sharded network needs all processes.
    validates = main_process or accelerator.distributed_type == DistributedType.FSDP
    samples = validation_samples(recipe) if validates else {}
    # A step of the other objectives needs no VAE: its memory is better used.
    idle = device if recipe.objective == "e2e" else torch.device("cpu")
    base.vae.to(idle)

    # The U-Net and its optimiser, as the newest state has them
    set_dropout(base.unet, recipe.dropout)
    if recipe.lora_rank:
        add_lora(base.unet, recipe.lora_rank, recipe.seed)
    if recipe.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
        base.vae.enable_gradient_checkpointing()
    base.unet.to(memory_format=torch.channels_last).train()
    trained = [weight for weight in base.unet.parameters() if weight.requires_grad]
    unet, optimizer = accelerator.prepare(base.unet, make_optimizer(recipe, trained))
    ema = EMAModel(trained, decay=recipe.ema) if recipe.ema else None
    resumed = load_state(accelerator, run, recipe, ema) if recipe.resume else None
    if ema:
        ema.to(device)
    progress: dict[str, Any] = resumed or {"step": 0, "best": None}
    step = progress["step"]
    if main_process:
        prepare_output(recipe, base, progress, bool(resumed))
    tracker = Tracker(recipe, run / "logs", main_process, step)
    accelerator.print(
        f"{recipe.output}: {'continues after' if resumed else 'starts at'} step {step}"
    )

    def loss_of(batch: LatentBatch) -> Tensor:
        if recipe.dropout:
            torch.manual_seed(dropout_seed(recipe.seed, batch.number))
        if recipe.objective == "e2e":
            return end_to_end_loss(
                unet,
                lambda latent: decode(accelerator, base, latent),
                batch.image,
                batch.truth,
                batch.valid,
                text_embedding,
                schedule,
                target.end_to_end or affine_error,
            )
        return denoising_loss(
            unet,
            batch.image,
            batch.target,
            text_embedding,
            schedule,
            mask=batch.mask,
            noise_strength=recipe.noise_strength,
            noise_annealed=recipe.noise_annealing,
            terminal_share=recipe.terminal_share,
            generator=noise_generator(recipe.seed, batch.number, device),
        )

    def publish() -> str | None:
        """Validate, and write the U-Net to OUTPUT if it is the one to keep; why it could not."""
        base.vae.to(device)
        with averaged(ema, trained):
            engine = marigold(accelerator, unet, base, text_embedding, recipe)
            found = validate(engine, samples, recipe.seed, target)
            unet.train()
            weights = plain_weights(accelerator.get_state_dict(unet))
        base.vae.to(idle)
        if not main_process:
            return None
        if found.problem:
            tqdm.write(f"step {step}: {found.problem}")
        if not found.finite or not all(bool(w.isfinite().all()) for w in weights.values()):
            return "its weights, or what they predict, are not finite"
        for data, values in found.metrics.items():
            shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            tqdm.write(f"step {step}, {data}: {shown}")
            tracker.numbers(step, {f"val/{data}/{k}": v for k, v in values.items()})
        tracker.pictures(step, found.pictures)
        error, best = found.error, progress["best"]
        better = best is None or (error is not None and error < best)
        if better or recipe.select == "last":
            counts = dict(zip(recipe.data, map(len, caches), strict=True))
            write_unet(recipe.output, weights, base, recipe, step, found.metrics, counts)
        if better:
            progress["best"] = error
        return None

    # Train
    numbers = micro_batch_numbers(
        step, recipe.steps, accumulation, accelerator.process_index, accelerator.num_processes
    )
    loader = batches.loader(numbers, recipe.workers)
    if recipe.overfit_one_batch:
        loader = batches.again(numbers)
    bar = tqdm(initial=step, total=recipe.steps, desc="steps", disable=not main_process)
    bad, finite, value, first = 0, True, math.nan, math.nan
    unpublished = unsaved = None  # why the newest checkpoint, or state, is not on the disk
    if step >= recipe.steps:  # OUTPUT may be of an earlier validation than the state
        unpublished = attempt(publish)
    while step < recipe.steps:
        rate = recipe.learning_rate * learning_rate_factor(step, recipe.warmup, recipe.decay_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        total, names = torch.zeros((), device=device), []
        for _ in range(accumulation):
            batch = next(loader).to(device)
            names += batch.names
            with accelerator.accumulate(unet):
                loss = loss_of(batch)
                accelerator.backward(loss)
                total += loss.detach() / accumulation
                if accelerator.sync_gradients:
                    limit = recipe.max_grad_norm or math.inf
                    norm = accelerator.clip_grad_norm_(unet.parameters(), limit)
                    value = float(accelerator.reduce(total, "mean"))
                    finite = math.isfinite(value) and (norm is None or math.isfinite(norm))
                # float16's scaler finds infinite gradients itself, and lowers its scale for them.
                if finite or accelerator.mixed_precision == "fp16":
                    optimizer.step()
                optimizer.zero_grad()
        step += 1
        progress["step"] = step
        bar.update()
        if finite or (accelerator.mixed_precision == "fp16" and math.isfinite(value)):
            bad = 0
            if ema:
                ema.step(trained)
            first = value if math.isnan(first) else first
            bar.set_postfix(loss=f"{value:.4f}", lr=f"{rate:.1e}", refresh=False)
            tracker.numbers(step, {"train/loss": value, "train/learning_rate": rate})
        else:
            bad += 1
            tqdm.write(
                f"step {step} is left out: its loss or gradient is not finite; its samples: "
                + ", ".join(names)
            )
            if bad == BAD_STEPS:
                raise MarigoldError(
                    f"The run has diverged: its loss was not finite {bad} steps in a row, so it "
                    f"stops at step {step}; {kept(run)}. Try a lower --learning-rate, "
                    "--max-grad-norm 1, or --mixed-precision no."
                )
        last = step == recipe.steps
        if step % recipe.val_every == 0 or last:
            unpublished = attempt(publish)
            if unpublished:
                tqdm.write(f"step {step}: {recipe.output} was not updated ({unpublished})")
        if (step % recipe.save_every == 0 and not bad) or last:
            unsaved = save_state(accelerator, run, step, recipe, progress, ema)
            if unsaved and main_process:
                tqdm.write(f"step {step}: no state was written ({unsaved}); {kept(run)}")
    bar.close()
    tracker.close()
    if recipe.overfit_one_batch:
        accelerator.print(f"one batch: the loss went from {first:.4f} to {value:.4f}")
    accelerator.end_training()
    if main_process:
        for problem, what in ((unpublished, recipe.output), (unsaved, "the last state")):
            if problem:
                raise MarigoldError(f"{what} could not be written ({problem}); {kept(run)}.")
        check_written(recipe.output)
        print(f"wrote {recipe.output}")


def marigold(
    accelerator: Accelerator, unet: nn.Module, base: Base, text_embedding: Tensor, recipe: Any
) -> Marigold:
    """The engine around the networks in training, as they are now."""
    if accelerator.distributed_type != DistributedType.FSDP:
        unet = accelerator.unwrap_model(unet)
    family = "e2e" if recipe.objective == "e2e" else "ddim"
    return Marigold(
        unet, base.vae, base.scheduler_config, text_embedding, family=family,
        device=accelerator.device, target=TARGETS[recipe.target].engine(),
    )  # fmt: skip


def decode(accelerator: Accelerator, base: Base, latent: Tensor) -> Tensor:
    """Scaled latents -> (B, 3, H, W), with gradients; float16 overflows in SD's VAE."""
    with torch.autocast(
        accelerator.device.type, torch.bfloat16, enabled=accelerator.mixed_precision == "bf16"
    ):
        return base.vae.decode(latent / base.vae.config.scaling_factor).sample


@contextmanager
def averaged(ema: EMAModel | None, trained: list[nn.Parameter]) -> Iterator[None]:
    """Inside the block the U-Net has its averaged weights, where there are any."""
    if ema is None:
        yield
        return
    ema.store(trained)
    ema.copy_to(trained)
    try:
        yield
    finally:
        ema.restore(trained)


def attempt(action: Callable[[], str | None]) -> str | None:
    """Why the action failed, or None. A full disk stops no run: what was on it before stays."""
    try:
        return action()
    except (OSError, SafetensorError) as error:
        return str(error)


def prepare_output(recipe: Any, base: Base, progress: dict[str, Any], resumed: bool) -> None:
    """Write what training does not change, unless an earlier part of the run has, undamaged."""
    problem = damage(recipe.output) if resumed else None
    if problem:
        print(f"{recipe.output} is damaged ({problem}); it is written again, its U-Net after the "
              "next validation")  # fmt: skip
        progress["best"] = None  # the U-Net that it belonged to may be lost
    if problem or not resumed:
        try:
            write_fixed_parts(recipe.output, base, recipe)
        except (OSError, SafetensorError) as error:
            raise MarigoldError(f"{recipe.output} cannot be written: {error}") from error


def kept(run: Path) -> str:
    """What is safe, for a message."""
    found = states(run)
    if not found:
        return "no state was written before it"
    return f"{found[-1]} is complete, and --resume continues from it"


def check_data(recipe: Any) -> None:
    """Draw what the run would learn from."""
    target = TARGETS[recipe.target]
    datasets = {
        spec: open_dataset(
            spec, "train", recipe.resolution, farthest=recipe.farthest, variants=variants,
            maps=target.maps,
        )
        for spec, variants in zip(recipe.data, recipe.variants, strict=True)
    }  # fmt: skip
    path = recipe.output.with_suffix(".data.png")
    problems = contact_sheet(datasets, path, target)
    for spec, dataset in datasets.items():
        print(f"{spec}: {len(dataset)} samples")
    for problem in problems:
        print(f"cannot be used: {problem}")
    print(f"wrote {path}")


if __name__ == "__main__":
    exit_on_sigterm()
    try:
        main()
    except MarigoldError as error:
        sys.exit(f"finetune: {error}")
    except KeyboardInterrupt:
        sys.exit("finetune: stopped; --resume continues from the last complete state")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sys.exit(
            "finetune: the device's memory is full; try --gradient-checkpointing, "
            "--mixed-precision bf16, --micro-batch 1, --optimizer adam8bit or --lora-rank 64"
        )
