"""Make the base that nano is fine-tuned from: a small Stable Diffusion in the same layout.

    python training/pretrain_nano.py --output runs/nano-base        # about 25 minutes on 2 cores
    python training/pretrain_nano.py --output runs/nano-base \\
        --start marigold_core/assets/nano --data folder:runs/worlds --farthest 80

Trains a small VAE on pictures and depth maps of procedural scenes, and of other data if told,
starts a 4-channel U-Net, and writes both beside a scheduler and a two-word text encoder as a
Stable Diffusion folder. Then `python training/finetune.py --base runs/nano-base` turns it into a
Marigold, as the paper does with the real one. With --start the VAE continues from a checkpoint's,
and the folder keeps all else of that checkpoint, so that its U-Net continues too, unless --channels
asks for a new one.

    python training/fetch_assets.py runs/assets
    python training/pretrain_nano.py --output runs/nano-base --data folder:runs/worlds \\
        --farthest 80 --pictures runs/assets/environments runs/assets/photographs \\
        runs/assets/textures --val-data folder:PHOTOGRAPHS

also learns photographs, and prints what PSNR those of --val-data survive with, the mean over them.
--normals adds the normals of --data: a VAE for depth alone gives them back as greys.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from data.latent_cache import unusable
from data.latents import SceneBatches, depth_target
from data.pictures import Pictures
from data.registry import open_dataset
from data.sample import DataError
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from nano_text import write_nano_text_encoder
from targets import TARGETS
from torch import Tensor
from tqdm import tqdm

from marigold_core.checkpoints.checksums import write_checksums
from marigold_core.errors import MarigoldError
from marigold_core.files import atomic_path

TEXT_WIDTH = 32
RESOLUTION = 256
CHANNELS = (96, 128, 96)
PICTURE_NOISE = 0.2  # of --latent-noise


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


def small_unet(channels: Sequence[int] = CHANNELS) -> UNet2DConditionModel:
    """Stable Diffusion 2's U-Net in small: attention on the two coarsest levels, v-prediction.

    channels: of each level, finest first, multiples of 32.
    """
    fine = len(channels) - 2
    return UNet2DConditionModel(
        sample_size=20,
        in_channels=4,
        out_channels=4,
        block_out_channels=tuple(channels),
        down_block_types=("DownBlock2D",) * fine + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",) * fine,
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


def near_weight(target: Tensor) -> Tensor:
    """What an error in a depth target in [-1, 1] counts: AbsRel divides by the depth.

    A scene whose far end is eleven times as far as its near end; about 1 on average.
    """
    return 0.4 / ((target + 1) / 2 + 0.1)


def reconstruction_loss(output: Tensor, target: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """L1 on values, and on differences of neighbours, which is what makes edges sharp."""
    output, target = output * weight, target * weight
    horizontal, vertical = (
        F.l1_loss(a, b) for a, b in zip(edges(output), edges(target), strict=True)
    )
    return F.l1_loss(output, target) + horizontal + vertical


def root_mean_square(error: Tensor) -> Tensor:
    """Mean over pictures of the root mean square: sharp texture counts as in a PSNR."""
    return error.square().mean((1, 2, 3)).add(1e-6).sqrt().mean()


def moment_penalty(latent: Tensor) -> Tensor:
    """How far the latent channels are from zero mean and unit variance.

    Pictures and depth maps share the VAE but not their contrast; left alone, picture latents come
    out several times weaker than depth latents, and the U-Net hears them badly.
    """
    mean, std = latent.mean((0, 2, 3)), latent.std((0, 2, 3))
    return mean.square().mean() + (std - 1).square().mean()


def stored_samples(specs: list[str], farthest: float | None) -> list[tuple[Tensor, Tensor]]:
    """The samples of those data sets, one in a batch: pictures and depth targets in [-1, 1]."""
    pool = []
    for spec in specs:
        dataset = open_dataset(spec, farthest=farthest)
        for index in tqdm(range(len(dataset)), desc=spec):
            try:
                sample = dataset[index]
            except DataError as error:
                tqdm.write(f"left out: {error}")
                continue
            if unusable(sample, True, TARGETS["depth"]) is None:
                depth = torch.where(sample.valid, sample.depth, torch.inf)[None]
                target = depth_target(depth, sample.valid[None])
                pool.append(((sample.image[None] * 2 - 1).half(), target.half()))
    return pool


def stored_normals(specs: list[str]) -> list[tuple[Tensor]]:
    """The normals of those data sets, one in a batch, as targets in [-1, 1]; 0 = not known."""
    pool = []
    for spec in specs:
        dataset = open_dataset(spec, maps=("normals",))
        for index in tqdm(range(len(dataset)), desc=f"normals of {spec}"):
            try:
                sample = dataset[index]
            except DataError as error:
                tqdm.write(f"left out: {error}")
                continue
            if unusable(sample, True, TARGETS["normals"]) is None:
                pool.append((sample.maps["normals"][None].half(),))
    if not pool:
        raise MarigoldError(f"--normals: {', '.join(specs)} has no normals that can be used.")
    return pool


def draw(
    pool: Sequence[tuple[Tensor, ...]], count: int, side: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """`count` square windows, each of another sample of the pool: of pictures and their depths, or
    of what else its tuples hold."""
    windows = []
    for _ in range(count):
        pair = pool[int(torch.randint(len(pool), (), generator=generator))]
        row, top, left = (
            int(torch.randint(size, (), generator=generator))
            for size in (len(pair[0]), pair[0].shape[-2] - side + 1, pair[0].shape[-1] - side + 1)
        )
        windows.append([p[row, :, top : top + side, left : left + side].float() for p in pair])
    return tuple(torch.stack(part) for part in zip(*windows, strict=True))


class Windows:
    """Training windows: `batch(step)` is (pictures, depths), (B, 3, side, side) in [-1, 1].

    With --pictures half of the pictures are windows of those folders, without a depth; the rest
    are of procedural scenes and, in equal parts, of --data. With --normals that half, or with
    --pictures a half of it, are normals of --data.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.count, self.side, self.seed = args.batch_size, args.crop, args.seed
        scenes = SceneBatches(
            args.scenes // args.batch_size, args.batch_size, args.seed, args.device
        )
        # Kept in half precision: these are inputs, and 16 bits hold more than a photograph does.
        rendered = [(rgb.half(), depth.half()) for rgb, depth in tqdm(scenes.loader(), "scenes")]
        self.pools = [rendered]
        if args.data:
            self.pools.append(stored_samples(args.data, args.farthest))
        self.pictures = Pictures(args.pictures) if args.pictures else None
        self.normals = stored_normals(args.data) if args.normals else None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        alone = self.count // 2 if self.pictures or self.normals else 0
        of_normals = 0 if not self.normals else alone // 2 if self.pictures else alone
        each = (self.count - alone) // len(self.pools)
        parts = [draw(pool, each, self.side, generator) for pool in self.pools]
        rgb, depth = (torch.cat(part) for part in zip(*parts, strict=True))
        if self.pictures:
            random = np.random.default_rng((self.seed, step))
            windows = [self.pictures.window(self.side, random) for _ in range(alone - of_normals)]
            rgb = torch.cat([rgb, torch.stack(windows) * 2 - 1])
        if self.normals:
            rgb = torch.cat([rgb, *draw(self.normals, of_normals, self.side, generator)])
        return rgb, depth


def train_vae(args: argparse.Namespace) -> AutoencoderKL:
    torch.manual_seed(args.seed)
    vae = AutoencoderKL.from_pretrained(args.start / "vae") if args.start else small_vae()
    vae = vae.float().to(args.device, memory_format=torch.channels_last)
    if args.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    trained = [weight for weight in vae.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, args.learning_rate, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, args.steps)
    windows = Windows(args)
    photographs = validation_pictures(args.val_data)

    if photographs:
        tqdm.write(f"step 0: {peak_signal(vae, photographs):.2f} dB")
    bar = tqdm(range(args.steps), desc="vae")
    for step in bar:
        rgb, depth = (part.to(args.device) for part in windows.batch(step))
        pictures = torch.cat([rgb, depth]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            latent = vae.encode(pictures).latent_dist.mode()
            # The decoder will be given a denoiser's latents of depth, which are never exact. Those
            # of pictures are exact: they may hold finer detail.
            noise = torch.randn_like(latent) * args.latent_noise
            noise[: len(rgb)] *= PICTURE_NOISE
            output = vae.decode(latent + noise).sample
        output, latent = output.float(), latent.float()
        of_rgb, of_depth = output.split([len(rgb), len(depth)])
        latent_rgb, latent_depth = latent.split([len(rgb), len(depth)])
        loss_rgb = reconstruction_loss(of_rgb, rgb) + root_mean_square(of_rgb - rgb)
        loss_depth = reconstruction_loss(of_depth, depth, near_weight(depth))
        moments = moment_penalty(latent_rgb) + moment_penalty(latent_depth)
        loss = loss_rgb + loss_depth + 0.05 * moments
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        decay.step()
        if step % 20 == 0:
            bar.set_postfix(
                rgb=f"{F.l1_loss(of_rgb, rgb):.4f}",
                depth=f"{F.l1_loss(of_depth, depth):.4f}",
                std=f"{latent_rgb.std():.2f}/{latent_depth.std():.2f}",
            )
        if photographs and (step + 1) % args.val_every == 0:
            tqdm.write(f"step {step + 1}: {peak_signal(vae, photographs):.2f} dB")
            # What has been learnt so far outlives the process.
            vae.save_pretrained(args.output.with_name(f"{args.output.name}-vae"))

    if args.decoder_only:  # the latents are what they were, and so is their factor
        return vae
    with torch.inference_mode():
        batches = [torch.cat(windows.batch(args.steps + i)) for i in range(16)]
        latents = [vae.encode(b.to(args.device)).latent_dist.mode().flatten() for b in batches]
    vae.register_to_config(scaling_factor=round(1 / float(torch.cat(latents).std()), 5))
    return vae


def validation_pictures(specs: list[str] | None) -> list[Tensor]:
    """The pictures of those data sets at nano's resolution, (1, 3, H, W) in [-1, 1]."""
    pictures = []
    for dataset in (open_dataset(spec, "all", RESOLUTION) for spec in specs or ()):
        for index in range(len(dataset)):
            try:
                pictures.append(dataset[index].image[None] * 2 - 1)
            except DataError as error:
                print(f"left out: {error}")
    return pictures


@torch.inference_mode()
def peak_signal(vae: AutoencoderKL, pictures: list[Tensor]) -> float:
    """How well pictures survive the VAE: the mean of their peak signal-to-noise ratios, in dB."""
    ratios = []
    for picture in pictures:
        picture = picture.to(vae.device)
        output = vae.decode(vae.encode(picture).latent_dist.mode()).sample.clamp(-1, 1)
        # The peak is 2: values lie in [-1, 1].
        ratios.append(10 * math.log10(4 / float(F.mse_loss(output, picture))))
    return sum(ratios) / len(ratios)


def write_base(vae: AutoencoderKL, args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    vae.save_pretrained(args.output / "vae")
    small_unet(args.channels or CHANNELS).save_pretrained(args.output / "unet")
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--start", type=Path, help="checkpoint folder whose VAE is trained further")
    parser.add_argument("--data", nargs="+", metavar="KIND:WHERE", help="as much as the scenes")
    parser.add_argument("--pictures", nargs="+", type=Path, metavar="FOLDER",
        help="photographs, textures, environment maps: half of a batch's pictures")  # fmt: skip
    parser.add_argument("--normals", action="store_true",
        help="normals of --data too, as pictures: for a VAE that keeps them")  # fmt: skip
    parser.add_argument("--channels", nargs="+", type=int, metavar="N",
        help="of a new U-Net, finest level first (96 128 96 or --start's)")  # fmt: skip
    parser.add_argument("--val-data", nargs="+", metavar="KIND:WHERE",
        help="photographs whose PSNR is printed; none is trained on")  # fmt: skip
    parser.add_argument("--val-every", type=int, default=250, help="steps")
    parser.add_argument("--farthest", type=float, help="metres in --data that count; beyond is sky")
    parser.add_argument("--scenes", type=int, default=6400, help="scenes rendered ahead")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps of the VAE")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures (and depths) a step")
    parser.add_argument("--crop", type=int, default=96, help="side of the training crops in pixels")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--latent-noise", type=float, default=0.1, help="on depth before decoding")
    parser.add_argument("--decoder-only", action="store_true",
        help="keep the encoder, so that a U-Net of --start still fits")  # fmt: skip
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=2024)
    args = parser.parse_args(argv)
    if args.normals and not args.data:
        parser.error("--normals takes them from --data")
    if args.channels and (len(args.channels) < 3 or any(c < 32 or c % 32 for c in args.channels)):
        parser.error("--channels wants three levels or more, each a multiple of 32")
    if args.decoder_only and not args.start:
        parser.error("--decoder-only needs --start, whose encoder it keeps")

    start = time.monotonic()
    vae = train_vae(args).cpu()
    if args.start and not args.channels:
        shutil.copytree(args.start, args.output, ignore=shutil.ignore_patterns("run"))
        vae.save_pretrained(args.output / "vae")
    else:
        write_base(vae, args)
    write_checksums(args.output)
    print(f"wrote {args.output} after {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
