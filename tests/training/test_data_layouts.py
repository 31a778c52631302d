"""Hypersim, Virtual KITTI 2 and the evaluation sets in their original layouts."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import prepare
import pytest
import torch
from data.benchmark_sets import PROTOCOLS, open_benchmark
from data.depth_arrays import read_hdf5
from data.hypersim import planar_depth, tone_map
from data.kitti_crops import benchmark_crop, evaluated_part
from data.latents import depth_target
from data.registry import open_dataset
from data.sample import DataError
from data_builders import (
    SHARED_RGBD,
    grey_16,
    hypersim_frame,
    hypersim_table,
    picture,
    vkitti_frame,
)
from PIL import Image

from marigold_core.errors import MarigoldError


def prepare_all_but_one(*arguments: object) -> None:
    """prepare.py over data with a torn file, which the exit status tells."""
    with pytest.raises(SystemExit, match="some frames could not be used"):
        prepare.main([*map(str, arguments), "--workers", "1"])


@pytest.mark.parametrize("size", [(375, 1242), (370, 1224), (374, 1238), (376, 1241)])
def test_kitti_crop_keeps_the_bottom_and_the_middle(size):
    height, width = size
    rows, columns = benchmark_crop(height, width)
    assert (rows.start, rows.stop) == (height - 352, height)
    assert columns.start == (width - 1216) // 2
    assert columns.stop - columns.start == 1216
    with pytest.raises(ValueError, match="1216 x 352"):
        benchmark_crop(351, 1216)


def test_the_parts_of_a_kitti_frame_that_are_evaluated():
    # int(.3324324 * 352) = 117, int(.91351351 * 352) = 321, int(.0359477 * 1216) = 43,
    # int(.96405229 * 1216) = 1172; Garg's rows int(.40810811 * 352) = 143, int(.99189189 * 352).
    for kind, (top, bottom) in {"eigen": (117, 321), "garg": (143, 349)}.items():
        part = evaluated_part(352, 1216, kind)
        rows, columns = np.nonzero(part)
        assert (rows.min(), rows.max() + 1) == (top, bottom)
        assert (columns.min(), columns.max() + 1) == (43, 1172)
        assert part.sum() == (bottom - top) * (1172 - 43)


@pytest.mark.parametrize("apart", [False, True])
def test_virtual_kitti_is_cropped_in_metres_without_the_sky(tmp_path, apart):
    stored = vkitti_frame(tmp_path, "Scene01", "clone", apart=apart)
    dataset = open_dataset(f"vkitti:{tmp_path}", "val")
    sample = dataset[0]
    assert tuple(sample.image.shape) == (3, 352, 1216)
    assert tuple(sample.depth.shape) == (352, 1216)
    metres = stored[375 - 352 :, 13 : 13 + 1216] / 100
    valid = metres < 80
    assert np.array_equal(sample.valid.numpy(), valid)
    np.testing.assert_allclose(sample.depth.numpy()[valid], metres[valid], rtol=1e-6)
    np.testing.assert_allclose(sample.depth.numpy(), metres, rtol=1e-6)  # the sky is 655.35 m


def authors_target(depth: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """`ScaleShiftDepthNormalizer` of prs-eth/Marigold after `_get_valid_mask`, (H, W)."""
    valid = (depth > low) & (depth < high)
    near, far = torch.quantile(depth[valid], torch.tensor([0.02, 0.98]))
    return torch.clip((depth - near) / (far - near) * 2.0 - 1.0, -1.0, 1.0)


def test_the_sky_is_far_and_out_of_the_loss_as_in_the_authors_code(tmp_path):
    stored = vkitti_frame(tmp_path, "Scene01", "clone")
    sample = open_dataset(f"vkitti:{tmp_path}", "val")[0]
    decoded = torch.from_numpy(stored[375 - 352 :, 13 : 13 + 1216].astype(np.float32) / 100)
    expected = authors_target(decoded, 1e-5, 80)
    target = depth_target(sample.depth[None], sample.valid[None])[0]
    torch.testing.assert_close(target, expected.expand(3, -1, -1), rtol=0, atol=1e-5)
    sky = stored[375 - 352 :, 13 : 13 + 1216] == 65535
    assert sky.mean() > 0.2
    assert (target[0].numpy()[sky] == 1).all()
    assert not sample.valid.numpy()[sky].any()


@pytest.mark.parametrize("rule", [">7", ""])
def test_what_is_infinite_or_beyond_a_rule_is_far_in_a_folder_too(tmp_path, rule):
    metres = np.random.default_rng(0).uniform(1, 9, (16, 24)).astype(np.float32)
    metres[:4], metres[-1] = np.inf, 0
    picture(tmp_path / "p.png", 16, 24)
    np.save(tmp_path / "d.npy", metres)
    (tmp_path / "manifest.csv").write_text(f"image,depth,invalid\np.png,d.npy,{rule}\n")
    sample = open_dataset(f"folder:{tmp_path}", "all", farthest=7 if not rule else None)[0]
    target = depth_target(sample.depth[None], sample.valid[None])[0, 0]
    expected = authors_target(torch.from_numpy(metres), 1e-5, 7)
    torch.testing.assert_close(target, expected, rtol=0, atol=1e-5)
    assert (target[:4] == 1).all()
    assert (target[-1] == -1).all()
    assert torch.equal(sample.valid, torch.from_numpy((metres > 0) & (metres <= 7)))


def test_virtual_kitti_splits_are_the_authors(tmp_path):
    for scene, variant in (
        ("Scene01", "clone"), ("Scene02", "15-deg-left"), ("Scene02", "fog"), ("Scene02", "rain"),
        ("Scene06", "30-deg-left"), ("Scene20", "sunset"),
    ):  # fmt: skip
        path = tmp_path / f"{scene}/{variant}/frames/rgb/Camera_1/rgb_00003.jpg"
        path.parent.mkdir(parents=True)
        path.touch()
    names = {
        split: [d.name(i).split("/")[:2] for i in range(len(d))]
        for split in ("train", "val")
        for d in [open_dataset(f"vkitti:{tmp_path}", split)]
    }
    assert names["train"] == [["Scene02", "15-deg-left"], ["Scene20", "sunset"]]
    assert names["val"] == [["Scene01", "clone"]]
    with pytest.raises(DataError, match="no split"):
        open_dataset(f"vkitti:{tmp_path}", "test")


@pytest.mark.skipif(not SHARED_RGBD.is_dir(), reason="no shared pictures with depth beside this")
def test_a_frame_in_the_exact_layout_of_virtual_kitti():
    sample = open_dataset(f"vkitti:{SHARED_RGBD / 'vkitti2_layout'}", "val")[0]
    assert tuple(sample.depth.shape) == (352, 1216)
    assert float(sample.depth[sample.valid].max()) < 80
    assert sample.valid.any()


def test_prepare_vkitti_lists_what_can_be_used_and_names_the_rest(tmp_path, capsys):
    vkitti_frame(tmp_path, "Scene02", "clone", 0)
    vkitti_frame(tmp_path, "Scene02", "clone", 1)
    vkitti_frame(tmp_path, "Scene01", "morning", 0)
    torn = tmp_path / "Scene02/clone/frames/depth/Camera_0/depth_00001.png"
    torn.write_bytes(torn.read_bytes()[:500])
    prepare_all_but_one("vkitti", tmp_path)
    assert "depth_00001.png" in capsys.readouterr().err
    assert (tmp_path / "vkitti_train.txt").read_text() == (
        "Scene02/clone/frames/rgb/Camera_0/rgb_00000.jpg"
        " Scene02/clone/frames/depth/Camera_0/depth_00000.png\n"
    )
    assert len(open_dataset(f"vkitti:{tmp_path}", "train")) == 1
    assert len(open_dataset(f"vkitti:{tmp_path}", "val")) == 1


@pytest.mark.skipif(find_spec("h5py") is None, reason="Hypersim's files need h5py")
class TestHypersim:
    def test_distance_along_the_ray_becomes_planar_depth(self):
        depth = planar_depth(np.full((768, 1024), 10.0))
        for row, column in ((0, 0), (383, 511), (767, 100)):
            x, y = column - 511.5, row - 383.5
            expected = 10 * 886.81 / np.sqrt(x**2 + y**2 + 886.81**2)
            assert depth[row, column] == pytest.approx(expected, rel=1e-12)
        assert depth[0, 0] == pytest.approx(8.11189, abs=1e-5)

    def test_the_ninetieth_percentile_becomes_four_fifths(self):
        radiance = np.random.default_rng(0).gamma(2, 3, (40, 50, 1)).repeat(3, axis=2)
        valid = np.ones((40, 50), bool)
        image = tone_map(radiance, valid)
        assert np.percentile(image[..., 0], 90) == pytest.approx(0.8, abs=1e-3)
        assert image.max() == 1
        # A brighter exposure is the same picture; the invalid pixels have no say.
        valid[:20] = False
        brighter = radiance * 7
        brighter[:20] *= 1000
        again = tone_map(brighter, valid)[20:]
        assert again == pytest.approx(tone_map(radiance[20:], valid[20:]), abs=1e-12)

    def test_tone_mapping_of_frames_without_light_or_surfaces(self):
        valid = np.ones((4, 4), bool)
        assert not tone_map(np.full((4, 4, 3), 1e-6), valid).any()
        kept = tone_map(np.full((4, 4, 3), 0.5), ~valid)
        assert kept == pytest.approx(0.5 ** (1 / 2.2))
        assert np.isfinite(tone_map(np.full((4, 4, 3), np.nan), valid)).all()

    @pytest.fixture
    def raw(self, tmp_path):
        """Six frames: two good, a flat wall, a black one, one with many holes, one torn."""
        random = np.random.default_rng(1)
        shape = 768, 1024
        slope = np.linspace(2, 9, 1024, dtype=np.float32)[None].repeat(768, 0)
        colour = random.uniform(0, 3, (*shape, 3)).astype(np.float16)
        entity = np.ones(shape, np.int32)
        holes = entity.copy()
        holes[:40] = -1  # 5 %
        x, y = np.arange(1024) - 511.5, np.arange(768)[:, None] - 383.5
        wall = (3 * np.sqrt(x**2 + y**2 + 886.81**2) / 886.81).astype(np.float32)
        far = slope.copy()
        far[0, 0], far[0, 1] = 90.0, np.nan  # 90 m are 73 m of depth: above 65.535
        hypersim_frame(tmp_path, "ai_001_001", 0, slope, colour, entity)
        hypersim_frame(tmp_path, "ai_001_001", 1, far, colour, entity)
        hypersim_frame(tmp_path, "ai_001_001", 2, wall, colour, entity)
        hypersim_frame(tmp_path, "ai_001_001", 3, slope, colour * 0, entity)
        hypersim_frame(tmp_path, "ai_001_001", 4, slope, colour, holes)
        hypersim_frame(tmp_path, "ai_001_001", 5, slope, colour, entity)
        torn = next(tmp_path.rglob("frame.0005.color.hdf5"))
        torn.write_bytes(torn.read_bytes()[:3000])
        rows = [("ai_001_001", n, "train", True) for n in range(6)]
        hypersim_table(tmp_path, [*rows, ("ai_001_001", 6, "train", False)])
        return tmp_path

    def test_original_and_prepared_layout_give_the_same(self, raw, tmp_path, capsys):
        output = tmp_path / "prepared"
        prepare_all_but_one("hypersim", raw, "--output", output, "--splits", "train")
        assert "frame.0005.color.hdf5" in capsys.readouterr().err
        listed = (output / "train/filename_list_train.txt").read_text().splitlines()
        assert len(listed) == 5
        kept = (output / "train/filename_list_train_filtered.txt").read_text().splitlines()
        assert [line.split()[0][-8:-4] for line in kept] == ["0000", "0001"]
        original = open_dataset(f"hypersim:{raw}")
        prepared = open_dataset(f"hypersim:{output}")
        assert len(original) == 6
        assert len(prepared) == 2
        for index in (0, 1):
            a, b = original[index], prepared[index]
            assert tuple(a.image.shape) == tuple(b.image.shape) == (3, 480, 640)
            assert a.valid.equal(b.valid)
            assert float((a.depth - b.depth).abs().max()) <= 0.001
            assert float((a.image - b.image).abs().max()) <= 1 / 255
        with pytest.raises(DataError, match=r"0005\.color"):
            original[5]
        # Surfaces beyond 65 m are far, where the authors' wrap around to near; NaN is a hole.
        stored = np.asarray(Image.open(output / "train" / listed[1].split()[1]))
        assert stored.dtype == np.uint16
        assert stored[0, :2].tolist() == [65535, 0]
        assert stored[0, 2] > 0
        before = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
        prepare_all_but_one("hypersim", raw, "--output", output, "--splits", "train")
        assert before == {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}

    def test_a_missing_table_of_splits_is_asked_for(self, raw):
        (raw / "metadata_images_split_scene_v1.csv").unlink()
        with pytest.raises(DataError, match="metadata_images_split_scene"):
            open_dataset(f"hypersim:{raw}")
        assert len(open_dataset(f"hypersim:{raw}", "all")) == 6

    @pytest.mark.skipif(not SHARED_RGBD.is_dir(), reason="no shared pictures with depth")
    def test_a_real_hypersim_distance_map(self):
        folder = SHARED_RGBD / "hypersim_ai_037_002_depth_only"
        distance = read_hdf5(folder / "depth.hdf5").astype(np.float64)
        depth = planar_depth(distance)
        assert depth.shape == (768, 1024)
        assert (depth <= distance).all()
        assert depth[383, 511] == pytest.approx(distance[383, 511], rel=1e-6)


class TestBenchmarks:
    def test_nyu_counts_its_crop_in_millimetres_up_to_ten_metres(self, tmp_path):
        picture(tmp_path / "test/k/rgb_0001.png", 480, 640)
        stored = np.full((480, 640), 2000)
        stored[100, 100], stored[101, 101] = 10_000, 0
        grey_16(tmp_path / "test/k/depth_0001.png", stored)
        (tmp_path / "filename_list_test.txt").write_text(
            "test/k/rgb_0001.png test/k/depth_0001.png test/k/filled_0001.png\n"
        )
        sample = open_benchmark(f"nyuv2:{tmp_path}")[0]
        expected = np.zeros((480, 640), bool)
        expected[45:471, 41:601] = True
        expected[100, 100] = expected[101, 101] = False
        assert np.array_equal(sample.valid.numpy(), expected)
        assert sample.depth[200, 200] == pytest.approx(2.0)

    def test_kitti_is_cropped_and_frames_without_truth_are_left_out(self, tmp_path):
        pixels = picture(tmp_path / "a.png", 375, 1242)
        grey_16(tmp_path / "d.png", np.full((375, 1242), 256 * 20))
        (tmp_path / "eigen_test_files_with_gt.txt").write_text("a.png d.png 7\nb.png None 7\n")
        dataset = open_benchmark(f"kitti:{tmp_path}")
        assert len(dataset) == 1
        sample = dataset[0]
        image = sample.image.permute(1, 2, 0).numpy()
        np.testing.assert_allclose(image, pixels[23:, 13:1229] / 255, rtol=1e-6)
        assert float(sample.depth[sample.valid][0]) == 20
        assert np.array_equal(sample.valid.numpy(), evaluated_part(352, 1216, "eigen"))

    def test_diode_takes_its_own_mask(self, tmp_path):
        picture(tmp_path / "a.png", 6, 8)
        depth = np.full((6, 8, 1), 400.0, np.float32)
        mask = np.zeros((6, 8))
        mask[2:, 3:] = 1
        np.save(tmp_path / "d.npy", depth)
        np.save(tmp_path / "m.npy", mask)
        (tmp_path / "mine.txt").write_text("a.png d.npy m.npy\n")
        sample = open_benchmark(f"diode:{tmp_path}#{tmp_path / 'mine.txt'}")[0]
        assert np.array_equal(sample.valid.numpy(), mask == 1)

    def test_eth3d_is_raw_floats_of_one_size(self, tmp_path):
        (tmp_path / "d.JPG").write_bytes(b"\0" * 400)
        picture(tmp_path / "a.png", 8, 8)
        (tmp_path / "eth3d_filename_list.txt").write_text("a.png d.JPG\n")
        with pytest.raises(DataError, match="6048 x 4032"):
            open_benchmark(f"eth3d:{tmp_path}")[0]

    def test_the_published_protocol(self):
        ranges = {name: protocol.depth_range for name, protocol in PROTOCOLS.items()}
        assert ranges["nyuv2"] == ranges["scannet"] == (1e-3, 10)
        assert ranges["kitti"] == ranges["kitti-garg"] == (1e-5, 80)
        assert ranges["diode"] == (0.6, 350)
        sizes = {name: protocol.processing_resolution for name, protocol in PROTOCOLS.items()}
        assert sizes == {"nyuv2": 0, "kitti": 0, "kitti-garg": 0, "eth3d": 756, "scannet": 0,
                         "diode": 640}  # fmt: skip

    def test_what_is_missing_is_named(self, tmp_path):
        with pytest.raises(DataError, match="eigen_test_files_with_gt"):
            open_benchmark(f"kitti:{tmp_path}")
        with pytest.raises(MarigoldError, match="nyuv2"):
            open_benchmark("imagenet:x")
