"""Views of a data set: a farthest depth that counts, and variants of each picture.

Both are data sets themselves, so that whatever reads one reads these.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .sample import Sample, SampleDataset, resize_sample, resized_shape

# A crop keeps at least this share of each side: as a longer lens would.
SMALLEST_CROP = 0.55
# The released recipe blurs pictures of this height alone (Hypersim's).
BLUR_HEIGHT, BLUR_CHANCE = 768, 0.3
# What turns a picture's values into light, near enough for noise and exposure.
GAMMA = 2.2
LUMA = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)


class Within(SampleDataset):
    """The same samples with what lies beyond `farthest` metres invalid, as the sky is.

    As the published protocols do (80 m on KITTI and Virtual KITTI): a few far pixels would
    otherwise decide the least-squares fit, and with it the error of everything near.
    """

    def __init__(self, dataset: SampleDataset, farthest: float) -> None:
        self.dataset, self.farthest = dataset, farthest

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return sample._replace(valid=sample.valid & (sample.depth <= self.farthest))

    def name(self, index: int) -> str:
        return self.dataset.name(index)


class Variants(SampleDataset):
    """`count` samples in place of each: itself, then crops of it under other light and lens.

    dataset: samples as they are stored; resolution: as `open_dataset` has it. A crop has the
    proportions of the whole, so that depth stays planar depth of a picture with a longer lens;
    its centre moves, which the affine-invariant target does not mind. A crop of normals keeps the
    centre: to a camera that looks elsewhere they would be turned. Variant j of sample i is a
    function of i and j alone.
    """

    def __init__(
        self, dataset: SampleDataset, count: int, resolution: int | tuple[int, int] | None
    ) -> None:
        self.dataset, self.count, self.resolution = dataset, count, resolution

    def __len__(self) -> int:
        return len(self.dataset) * self.count

    def __getitem__(self, index: int) -> Sample:
        number, variant = divmod(index, self.count)
        sample = self.dataset[number]
        height, width = sample.depth.shape
        size = resized_shape(height, width, self.resolution)
        if variant == 0:
            return resize_sample(sample, size)
        random = np.random.default_rng((number, variant))
        sample = resize_sample(cropped(sample, random), size)
        look = blurred_and_jittered if "normals" in sample.maps else photographed
        return sample._replace(image=look(sample.image, random), name=self.name(index))

    def name(self, index: int) -> str:
        number, variant = divmod(index, self.count)
        name = self.dataset.name(number)
        return f"{name} variant {variant}" if variant else name


def cropped(sample: Sample, random: np.random.Generator) -> Sample:
    height, width = sample.depth.shape
    share = random.uniform(SMALLEST_CROP, 1)
    h, w = max(8, round(height * share)), max(8, round(width * share))
    top, left = (int(random.integers(n + 1)) for n in (height - h, width - w))
    if "normals" in sample.maps:
        top, left = (height - h) // 2, (width - w) // 2
    window = (..., slice(top, top + h), slice(left, left + w))
    image, depth, valid = (part[window] for part in sample[:3])
    maps = {kind: values[window] for kind, values in sample.maps.items()}
    return sample._replace(image=image, depth=depth, valid=valid, maps=maps)


def photographed(image: Tensor, random: np.random.Generator) -> Tensor:
    """(3, H, W) in [0, 1] as another camera might show it.

    In the order in which a camera does it: white balance, exposure and vignette on light, focus,
    noise of the sensor, then tone, saturation, and the file's compression.
    """

    def often(chance: float) -> bool:
        return bool(random.random() < chance)

    light = image.clamp(0, 1) ** GAMMA
    balance = torch.from_numpy(np.exp(random.normal(0, 0.15, (3, 1, 1)))).float()
    light = light * balance * float(2 ** random.normal(0, 0.5))
    if often(0.4):
        light = vignetted(light, float(random.uniform(0.1, 0.6)))
    if often(0.3):
        light = blurred(light, float(random.uniform(0.4, 1.2)))
    if often(0.5):
        light = noisy(light, float(np.exp(random.uniform(np.log(1e-4), np.log(6e-3)))), random)
    picture = light.clamp(0, 1) ** (1 / GAMMA)
    picture = picture ** float(np.exp(random.uniform(-0.3, 0.3)))
    middle = picture.mean()
    picture = (picture - middle) * float(random.uniform(0.7, 1.3)) + middle
    grey = (picture * LUMA).sum(0, keepdim=True)
    colour = 0.0 if often(0.05) else float(random.uniform(0.4, 1.3))
    picture = (grey + (picture - grey) * colour).clamp(0, 1)
    return compressed(picture, int(random.integers(40, 96))) if often(0.5) else picture


def blurred_and_jittered(image: Tensor, random: np.random.Generator) -> Tensor:
    """(3, H, W) in [0, 1] with the augmentation of the released recipe for normals.

    Each with a chance of 0.3: Gaussian blur of sigma U(0, 4) and motion blur over 3 to 11 pixels in
    any direction, both of a picture 768 pixels high and smaller in a smaller one, and a jitter of
    brightness, contrast, saturation and hue.
    """
    scale = image.shape[-2] / BLUR_HEIGHT
    if random.random() < BLUR_CHANCE:
        image = blurred(image, max(float(random.uniform(0, 4)) * scale, 0.05))
    if random.random() < BLUR_CHANCE:
        length = float(random.choice([3, 5, 7, 9, 11])) * scale
        image = moved(image, length, float(random.uniform(0, 2 * np.pi)))
    if random.random() < BLUR_CHANCE:
        image = jittered(image, random)
    return image.clamp(0, 1)


def moved(picture: Tensor, length: float, angle: float) -> Tensor:
    """The mean of copies shifted along a line of so many pixels: motion blur."""
    height, width = picture.shape[-2:]
    steps = max(3, 2 * round(length) + 1)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    total = torch.zeros_like(picture)
    for offset in np.linspace(-0.5, 0.5, steps) * (length - 1 if length > 1 else 0):
        columns = (x + 0.5 + offset * np.cos(angle)) / width * 2 - 1
        rows = (y + 0.5 + offset * np.sin(angle)) / height * 2 - 1
        grid = torch.stack([columns, rows], -1)[None].float()
        total += F.grid_sample(picture[None], grid, padding_mode="border", align_corners=False)[0]
    return total / steps


def jittered(picture: Tensor, random: np.random.Generator) -> Tensor:
    """Brightness, contrast and saturation times U(0.5, 1.5), hue turned by up to a fifth."""
    picture = (picture * float(random.uniform(0.5, 1.5))).clamp(0, 1)
    middle = (picture * LUMA).sum(0).mean()
    picture = ((picture - middle) * float(random.uniform(0.5, 1.5)) + middle).clamp(0, 1)
    grey = (picture * LUMA).sum(0, keepdim=True)
    picture = (grey + (picture - grey) * float(random.uniform(0.5, 1.5))).clamp(0, 1)
    # A turn about the grey axis: near to one of hue.
    turn = 2 * np.pi * float(random.uniform(-0.2, 0.2))
    third, side = (1 - np.cos(turn)) / 3, np.sin(turn) / np.sqrt(3)
    rows = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * side + third + np.eye(3) * np.cos(turn)
    return torch.einsum("dc, c h w -> d h w", torch.from_numpy(rows).float(), picture)


def vignetted(light: Tensor, strength: float) -> Tensor:
    """Darker towards the corners, which keep 1 - strength of their light."""
    height, width = light.shape[-2:]
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    return light * (1 - strength * (y**2 + x**2) / 2)


def noisy(light: Tensor, shot: float, random: np.random.Generator) -> Tensor:
    """A sensor's noise of variance shot x light, and that of reading it out, (4 shot)^2.

    Drawn at the picture's size or at half of it: most pictures were scaled down, or are blotchy.
    """
    height, width = light.shape[-2:]
    coarse = random.random() < 0.3
    size = (-(-height // 2), -(-width // 2)) if coarse else (height, width)
    drawn = torch.from_numpy(random.normal(0, 1, (1, 3, *size))).float()
    if coarse:
        drawn = F.interpolate(drawn, (height, width), mode="bilinear")
    return light + drawn[0] * (shot * light.clamp(min=0) + (4 * shot) ** 2).sqrt()


def compressed(picture: Tensor, quality: int) -> Tensor:
    """Through JPEG at that quality (1 to 95), colours at half the resolution."""
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        back = np.asarray(opened.convert("RGB"))
    return torch.from_numpy(back.copy()).permute(2, 0, 1).float() / 255


def blurred(picture: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-((offsets / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).repeat(3, 1)
    padded = F.pad(picture[None], (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel[:, None, None, :], groups=3)
    return F.conv2d(rows, kernel[:, None, :, None], groups=3)[0]
