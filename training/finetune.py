"""Fine-tune a Stable Diffusion base into a Marigold depth checkpoint.

    python training/finetune.py --base runs/nano-base --output runs/nano

The paper's recipe on procedural scenes: the U-Net learns to denoise the latent of the normalised
depth map, given the latent of the picture; the VAE and the text encoder stay frozen. What it
writes is a complete checkpoint folder that `Marigold.from_pretrained` and
`diffusers.MarigoldDepthPipeline` open.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import torch
from data.latents import render_latents
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from objective import denoising_loss
from tqdm import tqdm

from marigold_core.checkpoints import empty_prompt_embedding
from marigold_core.diffusion import NoiseSchedule


def widen_conv_in(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """4 -> 8 input channels, in place: the weight is tiled and halved, the bias kept.

    Paper, section 3.3: on two copies of one latent the network gives what it gave on one.
    """
    old = unet.conv_in
    new = torch.nn.Conv2d(8, old.out_channels, old.kernel_size, padding=old.padding)
    weight = old.weight.detach().repeat(1, 2, 1, 1) * 0.5
    new.load_state_dict({"weight": weight, "bias": old.state_dict()["bias"]})
    unet.conv_in = new
    unet.register_to_config(in_channels=8)
    return unet


def learning_rate_factor(step: int, warmup: int, length: int, final: float = 0.01) -> float:
    """The released schedule: linear warm-up, then exponential decay to `final` at `length`."""
    if step < warmup:
        return step / warmup
    if step >= length:
        return final
    return math.exp((step - warmup) / (length - warmup) * math.log(final))


def save(unet: UNet2DConditionModel, args: argparse.Namespace, steps: int) -> None:
    """Write the whole checkpoint beside its final name, then swap it in."""
    folder = args.output.with_name(args.output.name + ".writing")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in ("scheduler", "text_encoder", "tokenizer"):
        shutil.copytree(args.base / part, folder / part)
    AutoencoderKL.from_pretrained(args.base / "vae").half().save_pretrained(folder / "vae")
    unet.half().save_pretrained(folder / "unet")
    for part in ("unet", "vae"):  # diffusers notes where it read a network: a path of this machine
        path = folder / part / "config.json"
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")
    index = {
        "_class_name": "MarigoldDepthPipeline",
        "default_denoising_steps": args.default_steps,
        "default_processing_resolution": args.resolution,
        "prediction_type": "depth",
        "scale_invariant": True,
        "shift_invariant": True,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    recipe = {key: str(value) for key, value in vars(args).items() if key not in ("base", "output")}
    recipe["steps_done"] = str(steps)
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    old = args.output.with_name(args.output.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if args.output.exists():
        args.output.rename(old)
    folder.rename(args.output)
    shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="a Stable Diffusion folder")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder to write")
    data = parser.add_argument_group("data")
    data.add_argument("--scenes", type=int, default=24000, help="procedural scenes rendered ahead")
    data.add_argument("--resolution", type=int, default=160, help="the checkpoint's own, in pixels")
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--steps", type=int, default=6000, help="optimiser steps")
    recipe.add_argument("--batch-size", type=int, default=32)
    recipe.add_argument("--learning-rate", type=float, default=1e-3, help="the paper's is 3e-5")
    recipe.add_argument("--warmup", type=int, default=100, help="steps")
    recipe.add_argument(
        "--noise-strength", type=float, default=0.9, help="of multi-resolution noise"
    )
    recipe.add_argument(
        "--terminal-share", type=float, default=0.33, help="samples at the last timestep; paper: 0"
    )
    recipe.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights")
    recipe.add_argument("--default-steps", type=int, default=4, help="the checkpoint's own")
    run = parser.add_argument_group("run")
    run.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    run.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    run.add_argument("--save-every", type=int, default=500, help="steps")
    run.add_argument("--seed", type=int, default=2024)
    args = parser.parse_args()

    # Set up
    torch.manual_seed(args.seed)
    vae = AutoencoderKL.from_pretrained(args.base / "vae").to(args.device).requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(args.base / "unet")
    if unet.config.in_channels == 4:
        widen_conv_in(unet)
    unet.to(args.device, memory_format=torch.channels_last).train()
    schedule = NoiseSchedule.from_config(
        json.loads((args.base / "scheduler" / "scheduler_config.json").read_text())
    )
    text_embedding = empty_prompt_embedding(args.base).to(args.device)
    optimizer = torch.optim.Adam(unet.parameters(), args.learning_rate)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, args.warmup, args.steps)
    )
    ema = EMAModel(unet.parameters(), decay=args.ema)

    # Data: both latents of every scene, so that a step never runs the VAE
    pairs = render_latents(vae, args.scenes, args.batch_size, args.seed + 1, args.device)
    generator = torch.Generator(args.device).manual_seed(args.seed)
    order = torch.Generator().manual_seed(args.seed)

    # Train
    start = time.monotonic()
    bar = tqdm(range(1, args.steps + 1), desc="unet")
    mean_loss = torch.zeros((), device=args.device)
    for step in bar:
        pair = pairs[int(torch.randint(len(pairs), (), generator=order))]
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            loss = denoising_loss(
                unet,
                pair.image,
                pair.depth,
                text_embedding,
                schedule,
                noise_strength=args.noise_strength,
                terminal_share=args.terminal_share,
                generator=generator,
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        decay.step()
        ema.step(unet.parameters())
        mean_loss += loss.detach()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{mean_loss / 50:.4f}")
            mean_loss.zero_()
        if step % args.save_every == 0 or step == args.steps:
            averaged = UNet2DConditionModel.from_config(unet.config)
            ema.copy_to(averaged.parameters())
            save(averaged, args, step)
    print(f"wrote {args.output} after {(time.monotonic() - start) / 60:.1f} minutes of training")


if __name__ == "__main__":
    main()
