"""The evaluation sets against the authors' own reading of the same files.

Each `authors_*` is written from src/dataset/*.py, config/dataset_depth/*.yaml, src/util/ and
script/depth/eval.py of prs-eth/Marigold (commit b1dffaa): Pillow or raw bytes, then torch.
"""

from __future__ import annotations

import data.benchmark_sets as benchmark_sets
import numpy as np
import published
import pytest
import torch
from data.benchmark_sets import PROTOCOLS, open_benchmark
from metrics import fitted, score
from PIL import Image
from torch import Tensor

generator = np.random.default_rng(7)


def authors_rgb(path) -> np.ndarray:
    """(H, W, 3) as np.asarray(Image.open(path)) gives it: not turned by EXIF."""
    return np.asarray(Image.open(path)) / 255.0


def authors_png(path, divisor: float) -> Tensor:
    return torch.from_numpy(np.asarray(Image.open(path)) / divisor).float()


def in_range(depth: Tensor, low: float, high: float) -> Tensor:
    return torch.logical_and(depth > low, depth < high)


def write_png_pair(folder, size: tuple[int, int], stored: np.ndarray, listed: str, line: str):
    rgb, depth = line.split()[:2]
    for name in (rgb, depth):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(folder / rgb)
    Image.fromarray(stored.astype(np.uint16)).save(folder / depth)
    (folder / listed).write_text(line + "\n")
    return folder / rgb, folder / depth


def assert_same(sample, image: np.ndarray, depth: Tensor, valid: Tensor) -> None:
    np.testing.assert_allclose(sample.image.permute(1, 2, 0).numpy(), image, atol=1e-7)
    assert torch.equal(sample.valid, valid)
    assert torch.equal(sample.depth[valid], depth[valid])  # To the last bit.


def every_value(size: tuple[int, int]) -> np.ndarray:
    """16-bit numbers at random, with the ends of every range among them."""
    stored = generator.integers(0, 65536, size)
    ends = [0, 1, 2, 9999, 10_000, 10_001, 80 * 256 - 1, 80 * 256, 80 * 256 + 1, 65535]
    stored[size[0] // 2, size[1] // 2 : size[1] // 2 + len(ends)] = ends
    return stored


def test_nyu(tmp_path):
    # The third file of a line, filled depth, is read by the authors but never evaluated.
    line = "test/kitchen_0004/rgb_0001.png test/kitchen_0004/depth_0001.png test/k/filled_0001.png"
    size = (480, 640)
    rgb, file = write_png_pair(
        tmp_path, size, every_value(size) % 12_000, "filename_list_test.txt", line
    )
    depth = authors_png(file, 1000.0)
    valid = in_range(depth, 1e-3, 10.0)
    crop = torch.zeros_like(valid)
    crop[45:471, 41:601] = True
    assert_same(open_benchmark(f"nyuv2:{tmp_path}")[0], authors_rgb(rgb), depth, valid & crop)


@pytest.mark.parametrize("kind", ["kitti", "kitti-garg"])
@pytest.mark.parametrize("size", [(375, 1242), (376, 1241), (370, 1226)])
def test_kitti(kind, size, tmp_path):
    line = "2011_09_26/drive/image_02/data/0000000069.png drive/proj_depth/0000000069.png 721.5377"
    rgb, file = write_png_pair(
        tmp_path, size, every_value(size) % 21_000, "eigen_test_files_with_gt.txt", line
    )
    top, left = int(size[0] - 352), int((size[1] - 1216) / 2)
    part = (slice(top, top + 352), slice(left, left + 1216))
    depth = authors_png(file, 256.0)[part]
    crop = torch.zeros(352, 1216, dtype=torch.bool)
    if kind == "kitti-garg":
        crop[int(0.40810811 * 352) : int(0.99189189 * 352),
             int(0.03594771 * 1216) : int(0.96405229 * 1216)] = True  # fmt: skip
    else:
        crop[int(0.3324324 * 352) : int(0.91351351 * 352),
             int(0.0359477 * 1216) : int(0.96405229 * 1216)] = True  # fmt: skip
    valid = in_range(depth, 1e-5, 80) & crop
    assert_same(open_benchmark(f"{kind}:{tmp_path}")[0], authors_rgb(rgb)[part], depth, valid)


def test_scannet(tmp_path):
    line = "scene0406_02/color/000300.jpg scene0406_02/depth/000300.png"
    size = (48, 64)
    rgb, file = write_png_pair(
        tmp_path, size, every_value(size), "scannet_val_sampled_list_800_1.txt", line
    )
    depth = authors_png(file, 1000.0)
    sample = open_benchmark(f"scannet:{tmp_path}")[0]
    assert_same(sample, authors_rgb(rgb), depth, in_range(depth, 1e-3, 10))


def test_eth3d(tmp_path, monkeypatch):
    assert benchmark_sets.ETH3D_SIZE == (4032, 6048)
    size = (42, 63)
    monkeypatch.setattr(benchmark_sets, "ETH3D_SIZE", size)
    rgb = tmp_path / "rgb/office/images/dslr_images/DSC_0219.JPG"
    file = tmp_path / "depth/office_dslr_depth/office/ground_truth_depth/DSC_0219.JPG"
    rgb.parent.mkdir(parents=True)
    file.parent.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was held upright; the truth is of the stored pixels.
    Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(rgb, exif=exif)
    written = generator.uniform(0.5, 60, size).astype(np.float32)
    written[::3, ::2], written[0, 1], written[1, 1] = np.inf, 0, 1e-6
    file.write_bytes(written.astype("<f4").tobytes())
    lines = [f"{path.relative_to(tmp_path).as_posix()}" for path in (rgb, file)]
    (tmp_path / "eth3d_filename_list.txt").write_text(" ".join(lines) + "\n")

    decoded = np.frombuffer(file.read_bytes(), dtype=np.float32).copy()
    decoded[decoded == torch.inf] = 0.0
    depth = torch.from_numpy(decoded.reshape(size))
    valid = in_range(depth, 1e-5, torch.inf)
    assert 0 < valid.sum() < valid.numel()
    dataset = open_benchmark(f"eth3d:{tmp_path}")
    assert_same(dataset[0], authors_rgb(rgb), depth, valid)


def test_diode(tmp_path):
    folder = tmp_path / "indoors/scene_00021/scan_00189"
    folder.mkdir(parents=True)
    name, size = "00021_00189_indoors_200_010", (24, 32)
    Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{name}.png")
    # Beyond 0.6 to 350 m too: only the mask says what counts.
    np.save(folder / f"{name}_depth.npy", generator.uniform(0.1, 400, (*size, 1)).astype("f4"))
    np.save(folder / f"{name}_depth_mask.npy", generator.integers(0, 2, size).astype(np.float64))
    base = f"indoors/scene_00021/scan_00189/{name}"
    (tmp_path / "diode_val_all_filename_list.txt").write_text(
        f"{base}.png {base}_depth.npy {base}_depth_mask.npy"
    )
    depth = np.load(folder / f"{name}_depth.npy").squeeze()[np.newaxis, :, :]
    mask = np.load(folder / f"{name}_depth_mask.npy").squeeze()[np.newaxis, :, :].astype(bool)
    assert_same(
        open_benchmark(f"diode:{tmp_path}")[0],
        authors_rgb(folder / f"{name}.png"),
        torch.from_numpy(depth).float()[0],
        torch.from_numpy(mask)[0],
    )


def authors_alignment(
    truth: np.ndarray, prediction: np.ndarray, valid: np.ndarray, largest: int | None
) -> np.ndarray:
    """align_depth_least_square: with its Upsample over (1, H, W), of which it takes H for
    channels."""
    g, p, used = truth, prediction, valid
    if largest is not None:
        factor = np.min(largest / np.array(prediction.shape[-2:]))
        if factor < 1:
            smaller = torch.nn.Upsample(scale_factor=factor, mode="nearest")
            g = smaller(torch.as_tensor(g).unsqueeze(0)).numpy()
            p = smaller(torch.as_tensor(p).unsqueeze(0)).numpy()
            used = smaller(torch.as_tensor(used).unsqueeze(0).float()).bool().numpy()
    column = p[used].reshape(-1, 1)
    design = np.concatenate([column, np.ones_like(column)], axis=-1)
    scale, shift = np.linalg.lstsq(design, g[used].reshape(-1, 1), rcond=None)[0]
    return prediction * scale + shift


@pytest.mark.parametrize("name", ["nyuv2", "eth3d", "diode"])
def test_alignment_and_metrics(name):
    protocol = PROTOCOLS[name]
    size = (9, 6048) if name == "eth3d" else (48, 64)
    truth = generator.uniform(0.8, 9.9, size).astype(np.float32)
    noise = generator.normal(0, 0.1, size).astype(np.float32)
    prediction = (truth / 20 + noise).clip(0, 1)
    valid = generator.random(size) < 0.7
    low, high = protocol.depth_range
    aligned = authors_alignment(truth, prediction, valid, 1024 if name == "eth3d" else None)
    np.testing.assert_allclose(
        fitted(prediction, truth, valid, fit_columns=protocol.fit_columns), aligned, rtol=1e-3
    )
    output = torch.from_numpy(np.clip(np.clip(aligned, low, high), 1e-6, None))[valid]
    target = torch.from_numpy(truth)[valid]
    difference = torch.log(output) - torch.log(target)
    ratio = torch.max(output / target, target / output)
    found = score(
        prediction, truth, valid,
        depth_range=protocol.depth_range, fit_columns=protocol.fit_columns,
    )  # fmt: skip
    expected = {
        "abs_rel": ((output - target).abs() / target).mean(),
        "sq_rel": ((output - target) ** 2 / target).mean(),
        "rmse": ((output - target) ** 2).mean().sqrt(),
        "rmse_log": (difference**2).mean().sqrt(),
        "log10": (torch.log10(output) - torch.log10(target)).abs().mean(),
        "delta1": (ratio < 1.25).float().mean(),
        "delta2": (ratio < 1.25**2).float().mean(),
        "delta3": (ratio < 1.25**3).float().mean(),
        "silog": ((difference**2).mean() - difference.mean() ** 2).sqrt() * 100,
    }
    for field, value in expected.items():
        assert getattr(found, field) == pytest.approx(float(value), rel=1e-3), field


def test_published_values_are_of_these_sets():
    assert set(published.SETS) == set(PROTOCOLS) - {"kitti-garg"}
    for rows in published.PUBLISHED.values():
        assert [row.method for row in rows] == list(published.PRINTED)
        assert all(0.05 < row.abs_rel < 0.32 and 0.76 < row.delta1 < 0.97 for row in rows)
