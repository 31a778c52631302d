"""Samples, the plain folder, the names of data sets, and procedural scenes as one of them."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from importlib.util import find_spec

import data.depth_arrays
import numpy as np
import pytest
import torch
from data.depth_arrays import read_values
from data.registry import open_dataset
from data.sample import DataError, Sample, as_sample, read_list, resize_sample, resized_shape
from data_builders import SHARED_RGBD, grey_16, picture, rendered_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from marigold_core.errors import MarigoldError


def test_holes_are_never_valid():
    depth = np.array([[1.0, 0.0, -2.0, np.nan, np.inf, 3.0]])
    sample = as_sample(np.zeros((1, 6, 3)), depth, np.array([[True] * 5 + [False]]), "a", "f")
    assert sample.valid.tolist() == [[True, False, False, False, False, False]]
    # What is infinite, or valid by no mask, stays in the picture that the VAE sees.
    assert sample.depth.tolist() == [[1, 0, 0, 0, np.inf, 3]]
    assert sample.image.dtype == sample.depth.dtype == torch.float32


def test_sizes_that_disagree_are_named():
    with pytest.raises(DataError, match=r"far\.png: .*4 x 2.*3 x 2") as caught:
        as_sample(np.zeros((2, 4, 3)), np.ones((2, 3)), np.ones((2, 3), bool), "a", "far.png")
    assert caught.value.file.name == "far.png"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 3000), st.integers(8, 3000), st.integers(8, 1024))
def test_resized_sides_are_multiples_of_a_latent_cell(height, width, resolution):
    h, w = resized_shape(height, width, resolution)
    assert h % 8 == w % 8 == 0
    assert abs(max(h, w) - resolution) <= 4
    assert (h >= w) == (height >= width) or h == w


def test_resizing_makes_no_depth_that_was_not_there():
    depth = torch.where(torch.arange(64) < 30, 1.0, 9.0).repeat(48, 1)
    sample = Sample(torch.rand(3, 48, 64), depth, depth > 5, "edge")
    small = resize_sample(sample, (18, 24))
    assert small.image.shape == (3, 18, 24)
    assert set(small.depth.unique().tolist()) == {1.0, 9.0}
    assert torch.equal(small.valid, small.depth > 5)


def test_lists_leave_out_frames_without_truth(tmp_path):
    (tmp_path / "list.txt").write_text("a.png None 721.5\nb.png d.png 721.5\n\n")
    assert read_list(tmp_path / "list.txt") == [("b.png", "d.png", "721.5")]
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(DataError, match=r"list\.txt"):
        read_list(tmp_path / "list.txt")


@pytest.mark.parametrize("spec", ["nothing", "folder:", "nowhere:/x", "procedural:none"])
def test_wrong_names_say_what_there_is(spec):
    with pytest.raises(MarigoldError, match="procedural"):
        open_dataset(spec)
    with pytest.raises(MarigoldError, match="split"):
        open_dataset("procedural:3", "half")


def test_procedural_scenes_are_the_same_every_time_and_differ_by_split():
    train, again = open_dataset("procedural:4"), open_dataset("procedural:9")
    for mine, other in zip(train[2][:4], again[2][:4], strict=True):
        assert mine == other if isinstance(mine, str) else torch.equal(mine, other)
    assert not torch.equal(train[2].image, open_dataset("procedural:4", "val")[2].image)
    for index in range(4):
        assert train[index].depth[~train[index].valid].isinf().all()
    assert open_dataset("procedural:4", "train", 64)[0].image.shape == (3, 48, 64)


def test_what_the_renderer_writes(tmp_path):
    dataset = open_dataset(f"folder:{rendered_folder(tmp_path, 3)}", "all")
    assert len(dataset) == 3
    sample = dataset[1]
    expected = np.random.default_rng(1).uniform(1, 9, (24, 32)).astype(np.float32)
    assert sample.depth[1:, 1:].numpy() == pytest.approx(expected[1:, 1:])
    assert not sample.valid[0].any()  # infinite
    assert not sample.valid[:, 0].any()  # masked
    assert tuple(sample.depth.shape) == (24, 32)
    assert sample.name == dataset.name(1) == "images/000001.png"


def test_half_a_line_of_a_stopped_renderer_is_left_out(tmp_path):
    rendered_folder(tmp_path, 2)
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write('{"image": "images/0000')
    with pytest.warns(UserWarning, match="line 3"):
        assert len(open_dataset(f"folder:{tmp_path}", "all")) == 2


def test_splits_of_a_folder(tmp_path):
    rendered_folder(tmp_path, 40)
    train, val, everything = (
        open_dataset(f"folder:{tmp_path}", split) for split in ("train", "val", "all")
    )
    names = [{part.name(i) for i in range(len(part))} for part in (train, val, everything)]
    assert len(names[1]) == 2
    assert names[0] | names[1] == names[2]
    assert not names[0] & names[1]
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    rows = [row | {"split": "val" if i < 7 else "train"} for i, row in enumerate(rows)]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(open_dataset(f"folder:{tmp_path}", "val")) == 7
    (tmp_path / "val.jsonl").write_text(json.dumps(rows[0]))
    assert len(open_dataset(f"folder:{tmp_path}", "val")) == 1


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".tif", ".pfm"])
def test_manifest_in_csv_and_every_kind_of_depth(tmp_path, suffix):
    metres = np.random.default_rng(0).uniform(1, 9, (6, 8)).astype(np.float32).round(2)
    picture(tmp_path / "p.png", 6, 8)
    file = tmp_path / f"d{suffix}"
    unit, tolerance, farthest = "", 1e-6, 8
    if suffix == ".png":
        grey_16(file, np.rint(metres * 5000))
        unit, tolerance, farthest = "0.0002", 1e-4, 40000
    elif suffix == ".npy":
        np.save(file, metres)
    elif suffix == ".npz":
        np.savez(file, depth=metres, other=metres * 2)
    elif suffix == ".tif":
        Image.fromarray(metres).save(file)
    else:
        data = b"Pf\n8 6\n-1.0\n" + np.flipud(metres).astype("<f4").tobytes()
        file.write_bytes(data)
    (tmp_path / "manifest.csv").write_text(
        f"image,depth,unit_m,key,invalid\np.png,{file.name},{unit},depth,>{farthest} ==0\n"
    )
    sample = open_dataset(f"folder:{tmp_path}")[0]
    assert sample.valid.numpy().tolist() == (metres <= 8).tolist()
    kept = sample.valid.numpy()
    assert sample.depth.numpy()[kept] == pytest.approx(metres[kept], abs=tolerance)


def test_disparity_becomes_depth_up_to_scale(tmp_path):
    picture(tmp_path / "p.png", 2, 2)
    np.save(tmp_path / "d.npy", np.array([[10.0, 30.0], [np.inf, -20.0]], np.float32))
    row = {"image": "p.png", "depth": "d.npy", "kind": "disparity", "doffs_px": 10}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row))
    sample = open_dataset(f"folder:{tmp_path}")[0]
    assert sample.depth.numpy() == pytest.approx(np.array([[1 / 20, 1 / 40], [0, 0]]))


def test_a_folder_without_a_manifest_pairs_by_name_in_millimetres(tmp_path):
    for name in ("b", "a"):
        picture(tmp_path / f"images/{name}.jpg", 4, 4)
        grey_16(tmp_path / f"depth/{name}.png", np.full((4, 4), 2500))
    picture(tmp_path / "images/alone.jpg", 4, 4)
    dataset = open_dataset(f"folder:{tmp_path}", "all")
    assert [dataset.name(i) for i in range(2)] == ["a", "b"]
    assert len(dataset) == 2
    assert dataset[0].depth.unique().tolist() == pytest.approx([2.5])


@pytest.mark.parametrize("broken", ["images/000001.png", "depth/000001.exr", "mask/000001.png"])
def test_a_broken_file_is_named_and_the_others_go_on(tmp_path, broken):
    dataset = open_dataset(f"folder:{rendered_folder(tmp_path, 3)}", "all")
    (tmp_path / broken).write_bytes((tmp_path / broken).read_bytes()[:60])
    with pytest.raises(DataError, match="000001"):
        dataset[1]
    assert dataset[0].valid.any()
    assert dataset[2].valid.any()


@pytest.mark.parametrize("content", ["", "[]", '{"image": "a.png"}', "nonsense"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_empty_manifest_is_named(tmp_path, content):
    (tmp_path / "manifest.jsonl").write_text(content)
    with pytest.raises(DataError, match="manifest"):
        open_dataset(f"folder:{tmp_path}")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".png", ".npy", ".npz", ".exr", ".pfm", ".tif"]))
def test_no_bytes_break_the_reader(tmp_path_factory, data, suffix):
    file = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    file.write_bytes(data)
    with pytest.raises(DataError, match="fuzz"):
        read_values(file)


@pytest.mark.parametrize(
    ("more", "words"),
    [({"decode": "rotate right by 3 bits"}, "decode is not a known key"),
     ({"to_disparity_px": 0.25}, "to_disparity_px is not 1")],
)  # fmt: skip
def test_a_meta_json_that_says_more_than_is_known_is_left_out(tmp_path, more, words):
    meta = {"rgb_file": "p.png", "depth_file": "d.png", "real": True, "to_metres": 0.001}
    for name, content in (("known", meta | {"notes": "a sensor's"}), ("unknown", meta | more)):
        picture(tmp_path / name / "p.png", 4, 4)
        grey_16(tmp_path / name / "d.png", np.full((4, 4), 2500))
        (tmp_path / name / "meta.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=words):
        dataset = open_dataset(f"folder:{tmp_path}", "all")
    assert [dataset.name(i) for i in range(len(dataset))] == ["known"]


def test_files_that_only_pretend_to_be_arrays(tmp_path):
    archive, promise = tmp_path / "zip.npy", tmp_path / "promise.npy"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a", "text")
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({1 << 20}, {1 << 20})}}"
    promise.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    os.mkfifo(tmp_path / "pipe.npy")
    for file in (archive, promise, tmp_path / "pipe.npy"):
        with pytest.raises(DataError, match=file.name):
            read_values(file)


def test_arrays_beyond_the_budget_of_a_picture_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data.depth_arrays, "MOST_VALUES", 99)
    values = np.ones((10, 10), np.float64)
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "a.npz", values)
    (tmp_path / "a.pfm").write_bytes(b"Pf\n10 10\n-1.0\n" + values.astype("<f4").tobytes())
    files = [tmp_path / f"a{suffix}" for suffix in (".npy", ".npz", ".pfm")]
    if find_spec("h5py"):
        import h5py

        files.append(tmp_path / "a.hdf5")
        with h5py.File(files[-1], "w") as file:
            file["dataset"] = values
    for file in files:
        with pytest.raises(DataError, match=f"{file.name}: it holds 1.. values"):
            read_values(file, "dataset" if file.suffix == ".hdf5" else None)


@pytest.mark.skipif(not SHARED_RGBD.is_dir(), reason="no shared pictures with depth beside this")
def test_photographed_frames_in_their_own_formats():
    dataset = open_dataset(f"folder:{SHARED_RGBD}", "all")
    names = [dataset.name(i) for i in range(len(dataset))]
    assert "nyu_dining" in names
    assert "icl_nuim_living_1" not in names  # rendered, not photographed
    sample = dataset[names.index("nyu_dining")]
    assert float(sample.valid.float().mean()) == pytest.approx(0.8334, abs=1e-3)
    assert float(sample.depth[sample.valid].median()) == pytest.approx(3.161, abs=1e-3)
    bin_frame = dataset[names.index("arc2017_bin")]
    assert float(bin_frame.depth[bin_frame.valid].max()) <= 5  # its rule: ">5" does not count
