"""Cached latents: what the VAE gives, flips included, and never stale."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from training_runs import build_base, build_pictures

pytest.importorskip("accelerate", reason="training needs the extra [train]")
from base_model import open_base  # noqa: E402
from batches import LatentBatches, micro_batch_numbers, noise_generator  # noqa: E402
from data.latent_cache import LatentCache, cache_folder, fill, sample_file, write_index  # noqa: E402
from data.registry import open_dataset  # noqa: E402

from marigold_core.errors import MarigoldError  # noqa: E402

KIND = {"flip": True, "metric": False, "invalid": "ignore"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return open_base(str(build_base(tmp_path_factory.mktemp("base") / "sd")), "v_prediction", True)


@pytest.fixture
def pictures(tmp_path):
    return build_pictures(tmp_path / "pictures", 4)


def filled(base, pictures: Path, root: Path, **change) -> LatentCache:
    kind = KIND | change
    spec = f"folder:{pictures}"
    folder = cache_folder(root, spec, "train", None, base.vae_fingerprint, **kind)
    dataset = open_dataset(spec, "train", None)
    fill(folder, dataset, base.vae, **kind)
    write_index(folder, len(dataset))
    return LatentCache(folder)


def posterior_mean(vae, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return vae.encode(pixels[None]).latent_dist.mean[0] * vae.config.scaling_factor


def test_latents_are_the_scaled_posterior_means_of_picture_depth_and_their_mirrors(
    base, pictures, tmp_path
):
    cache = filled(base, pictures, tmp_path / "cache")
    dataset = open_dataset(f"folder:{pictures}", "train", None)
    for index in range(len(dataset)):
        sample = dataset[index]
        depth = sample.depth.double().numpy()
        low, high = np.quantile(depth, (0.02, 0.98))
        target = (2 * (depth - low) / (high - low) - 1).clip(-1, 1).astype(np.float32)
        target = torch.from_numpy(target).expand(3, -1, -1)
        for flipped in (False, True):
            kept = cache[index, flipped]
            image = sample.image.flip(-1) if flipped else sample.image
            depths = target.flip(-1) if flipped else target
            close = {"rtol": 0, "atol": 1e-5}
            torch.testing.assert_close(kept.image, posterior_mean(base.vae, image * 2 - 1), **close)
            torch.testing.assert_close(kept.target, posterior_mean(base.vae, depths), **close)
            assert kept.mask.all()


def test_the_mask_is_that_of_the_mirrored_picture_too(base, pictures, tmp_path):
    depth = np.load(pictures / "depth" / "00.npy")
    depth[:, :9] = np.nan  # one column of cells, and one pixel of the next
    np.save(pictures / "depth" / "00.npy", depth)
    cache = filled(base, pictures, tmp_path / "cache")
    first = cache[0, False].mask[0]
    assert not first[:, :2].any()
    assert first[:, 2:].all()
    assert torch.equal(cache[0, True].mask[0], first.flip(-1))
    far = filled(base, pictures, tmp_path / "cache", invalid="far")
    assert far[0, False].mask.all()


def test_sides_that_are_no_multiple_of_eight_are_padded(base, tmp_path):
    pictures = build_pictures(tmp_path / "odd", 1, size=60)
    cache = filled(base, pictures, tmp_path / "cache")
    assert cache[0, False].image.shape == (4, 8, 8)
    assert cache.shape(0) == (8, 8)


def test_the_end_to_end_objective_keeps_clamped_metres(base, pictures, tmp_path):
    cache = filled(base, pictures, tmp_path / "cache", metric=True)
    depth = np.load(pictures / "depth" / "02.npy")
    low, high = np.quantile(depth, (0.02, 0.98))
    index = [cache.name(i) for i in range(len(cache))].index("02")
    np.testing.assert_allclose(cache[index, False].truth, depth.clip(low, high), rtol=1e-6)
    assert torch.equal(cache[index, True].truth, cache[index, False].truth.flip(-1))


def test_nothing_is_encoded_twice_and_a_damaged_file_is_written_anew(
    base, pictures, tmp_path, monkeypatch
):
    import data.latent_cache

    cache = filled(base, pictures, tmp_path / "cache")
    before = cache[1, False]
    calls = []
    real = data.latent_cache.encode
    monkeypatch.setattr(
        data.latent_cache, "encode", lambda *given: (calls.append(1), real(*given))[1]
    )
    filled(base, pictures, tmp_path / "cache")
    assert not calls
    file = sample_file(cache.folder, 1)
    file.write_bytes(file.read_bytes()[:-100])
    again = filled(base, pictures, tmp_path / "cache")
    assert len(calls) == 4  # picture and depth, both ways
    assert torch.equal(again[1, False].target, before.target)


def test_another_vae_other_data_or_another_kind_is_another_cache(base, pictures, tmp_path):
    def folder(vae: str = base.vae_fingerprint, **change) -> Path:
        kind = KIND | change
        return cache_folder(tmp_path, f"folder:{pictures}", "train", None, vae, **kind)

    first = folder()
    assert folder() == first
    assert folder(flip=False) != first
    assert folder(invalid="far") != first
    (pictures / "worker.log").write_text("a renderer's words")
    (pictures / ".a.png.marigold-part").mkdir()
    (pictures / ".a.png.marigold-part" / "a.png").write_text("half a file of a killed program")
    assert folder() == first
    copied = tmp_path / "copy"
    shutil.copytree(base.folder, copied)
    from checkpoint_builders import edit_weights

    file = copied / "vae" / "diffusion_pytorch_model.safetensors"
    edit_weights(file, {"encoder.conv_out.bias": torch.ones(8)})
    assert folder(open_base(str(copied), "v_prediction", True).vae_fingerprint) != first
    file = pictures / "depth" / "03.npy"
    status = file.stat()
    np.save(file, np.load(file) + 1)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert folder() != first


@pytest.mark.parametrize("damage", ["gone", "bit", "zeros", "half"])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_damaged_file_is_named_and_encoded_again(base, pictures, tmp_path, damage, flipped):
    cache = filled(base, pictures, tmp_path / "cache")
    before = cache[0, flipped]
    file = sample_file(cache.folder, 0)
    content = bytearray(file.read_bytes())
    with safe_open(str(file), "pt") as opened:
        size = opened.get_slice("target").get_shape()
    if damage == "bit":  # in the last tensors: image and depth lie before the masks
        header = 8 + int.from_bytes(content[:8], "little")
        content[header + (2 if flipped else 0) * size[1] * size[2] * size[3] * 2] ^= 1
    elif damage == "zeros":
        content = bytearray(len(content))
    file.unlink()
    if damage != "gone":
        file.write_bytes(content[: len(content) // 2] if damage == "half" else content)
    with pytest.raises(MarigoldError, match=f"{file.name} is damaged .*encodes it again"):
        cache[0, flipped]
    file.unlink(missing_ok=True)
    (cache.folder / "index.json").unlink()
    again = filled(base, pictures, tmp_path / "cache")
    assert torch.equal(again[0, flipped].target, before.target)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"left_out": {}, "samples": [[1, 2]]}', '{"left_out": 1}']
)
def test_a_damaged_list_of_latents_is_named(base, pictures, tmp_path, content):
    folder = filled(base, pictures, tmp_path / "cache").folder
    (folder / "index.json").write_text(content)
    with pytest.raises(MarigoldError, match=r"index\.json is damaged .*delete it"):
        LatentCache(folder)


def test_a_damaged_note_is_written_again(base, pictures, tmp_path):
    np.save(pictures / "depth" / "01.npy", np.full((64, 64), 2, np.float32))
    cache = filled(base, pictures, tmp_path / "cache")
    assert list(cache.left_out) == ["01"]
    note = next(cache.folder.glob("*/*.json"))
    note.write_text('{"name"')
    assert filled(base, pictures, tmp_path / "cache").left_out == cache.left_out


def test_a_micro_batch_is_the_same_whoever_asks_for_it_and_flips_half_the_time(
    base, pictures, tmp_path
):
    cache = filled(base, pictures, tmp_path / "cache")
    one, two = (LatentBatches([cache], [1.0], 5, 2, True) for _ in range(2))
    later = one[100]
    one[3]
    assert later.names == two[100].names
    assert torch.equal(later.image, two[100].image)
    assert later.image.shape == (2, 4, 8, 8)
    plain = {cache.name(i): cache[i, False].image for i in range(len(cache))}
    flips = [
        not torch.equal(image, plain[name])
        for number in range(200)
        for name, image in zip(one[number].names, one[number].image, strict=True)
    ]
    assert 0.43 < np.mean(flips) < 0.57
    unflipped = LatentBatches([cache], [1.0], 5, 2, False)
    assert torch.equal(unflipped[100].image[0], plain[unflipped[100].names[0]])


def test_processes_share_the_micro_batches_of_one_with_more_accumulation():
    alone = micro_batch_numbers(3, 5, 4, 0, 1)
    shared = [micro_batch_numbers(3, 5, 2, process, 2) for process in (0, 1)]
    assert list(alone) == list(range(12, 20))
    assert sorted([*shared[0], *shared[1]]) == list(alone)
    for step in range(2):  # the same optimiser step, whoever takes part
        of_step = [number for part in shared for number in part[2 * step : 2 * step + 2]]
        assert sorted(of_step) == list(alone[4 * step : 4 * step + 4])


def test_noise_is_a_function_of_seed_and_number():
    def draw(seed: int, number: int) -> float:
        return torch.rand((), generator=noise_generator(seed, number, torch.device("cpu"))).item()

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(seed, number) for seed in range(20) for number in range(20)}) == 400
