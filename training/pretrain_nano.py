"""Make the base that nano is fine-tuned from: a small Stable Diffusion in the same layout.

    python training/pretrain_nano.py --output runs/nano-base        # about 25 minutes on 2 cores

Trains a small VAE on pictures and depth maps of procedural scenes, starts a 4-channel U-Net, and
writes both beside a scheduler and a two-word text encoder as a Stable Diffusion folder. Then
`python training/finetune.py --base runs/nano-base` turns it into a Marigold, as the paper does
with the real one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from data.latents import SceneBatches
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from nano_text import write_nano_text_encoder
from torch import Tensor
from tqdm import tqdm

from marigold_core.files import atomic_path

TEXT_WIDTH = 32


def small_vae() -> AutoencoderKL:
    """Stable Diffusion's autoencoder (8x smaller, 4 latent channels), narrow at full resolution."""
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=160,
        mid_block_add_attention=False,
    )


def small_unet() -> UNet2DConditionModel:
    """Stable Diffusion 2's U-Net in small: attention on the two coarser levels, v-prediction."""
    channels = (96, 128, 96)
    return UNet2DConditionModel(
        sample_size=20,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        # diffusers' name is historical: these are numbers of heads, 32 channels each.
        attention_head_dim=tuple(c // 32 for c in channels),
        norm_num_groups=16,
        use_linear_projection=True,
    )


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule, rescaled to zero terminal SNR (Marigold v1.1's choice)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


def edges(pictures: Tensor) -> tuple[Tensor, Tensor]:
    return pictures.diff(dim=-1), pictures.diff(dim=-2)


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 on values, and on differences of neighbours, which is what makes edges sharp."""
    horizontal, vertical = (
        F.l1_loss(a, b) for a, b in zip(edges(output), edges(target), strict=True)
    )
    return F.l1_loss(output, target) + horizontal + vertical


def moment_penalty(latent: Tensor) -> Tensor:
    """How far the latent channels are from zero mean and unit variance.

    Pictures and depth maps share the VAE but not their contrast; left alone, picture latents come
    out several times weaker than depth latents, and the U-Net hears them badly.
    """
    mean, std = latent.mean((0, 2, 3)), latent.std((0, 2, 3))
    return mean.square().mean() + (std - 1).square().mean()


def train_vae(args: argparse.Namespace) -> AutoencoderKL:
    torch.manual_seed(args.seed)
    vae = small_vae().to(args.device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(vae.parameters(), args.learning_rate, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, args.steps)
    scenes = SceneBatches(args.scenes // args.batch_size, args.batch_size, args.seed, args.device)
    # Kept in half precision: these are inputs, and 16 bits hold more than a photograph does.
    pool = [(rgb.half(), depth.half()) for rgb, depth in tqdm(scenes.loader(), desc="scenes")]
    generator = torch.Generator().manual_seed(args.seed)

    bar = tqdm(range(args.steps), desc="vae")
    for step in bar:
        rgb, depth = pool[int(torch.randint(len(pool), (), generator=generator))]
        top = int(torch.randint(rgb.shape[-2] - args.crop + 1, (), generator=generator))
        left = int(torch.randint(rgb.shape[-1] - args.crop + 1, (), generator=generator))
        window = (..., slice(top, top + args.crop), slice(left, left + args.crop))
        rgb, depth = rgb[window].float(), depth[window].float()
        pictures = torch.cat([rgb, depth]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            latent = vae.encode(pictures).latent_dist.mode()
            # The decoder will be given a denoiser's latents, which are never exact.
            jitter = torch.randn(latent.shape, generator=generator).to(latent) * args.latent_noise
            output = vae.decode(latent + jitter).sample
        output, latent = output.float(), latent.float()
        of_rgb, of_depth = output.split([len(rgb), len(depth)])
        latent_rgb, latent_depth = latent.split([len(rgb), len(depth)])
        loss_rgb, loss_depth = (
            reconstruction_loss(of_rgb, rgb),
            reconstruction_loss(of_depth, depth),
        )
        moments = moment_penalty(latent_rgb) + moment_penalty(latent_depth)
        loss = loss_rgb + loss_depth + 0.05 * moments
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        decay.step()
        if step % 20 == 0:
            bar.set_postfix(
                rgb=f"{F.l1_loss(of_rgb, rgb):.4f}",
                depth=f"{F.l1_loss(of_depth, depth):.4f}",
                std=f"{latent_rgb.std():.2f}/{latent_depth.std():.2f}",
            )

    with torch.inference_mode():
        latents = [
            vae.encode(torch.cat(pair).float()).latent_dist.mode().flatten() for pair in pool[:16]
        ]
    vae.register_to_config(scaling_factor=round(1 / float(torch.cat(latents).std()), 5))
    return vae


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--scenes", type=int, default=6400, help="scenes rendered ahead")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps of the VAE")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures (and depths) a step")
    parser.add_argument("--crop", type=int, default=96, help="side of the training crops in pixels")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--latent-noise", type=float, default=0.1, help="before decoding")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=2024)
    args = parser.parse_args()

    start = time.monotonic()
    vae = train_vae(args)
    torch.manual_seed(args.seed)
    unet = small_unet()

    vae.cpu().save_pretrained(args.output / "vae")
    unet.save_pretrained(args.output / "unet")
    scheduler().save_pretrained(args.output / "scheduler")
    write_nano_text_encoder(args.output, TEXT_WIDTH, args.seed)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    with atomic_path(args.output / "model_index.json") as path:
        path.write_text(json.dumps(index, indent=2) + "\n")
    print(f"wrote {args.output} after {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
