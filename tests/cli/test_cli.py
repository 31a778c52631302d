from __future__ import annotations

import subprocess
import sys
import types
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marigold_core.cli.arguments import main
from marigold_core.depth import DepthMap, read_depth
from marigold_core.errors import CheckpointError, MarigoldError
from marigold_core.options import Options
from marigold_core.progress import Progress

trimesh = pytest.importorskip("trimesh")


class Engine:
    """In place of the model: depth grows to the right, and each call is noted."""

    device, dtype = "cpu", "torch.float32"
    loaded: list[tuple[str, dict]] = []
    called: list[Options] = []
    masks: list = []
    error: BaseException | None = None

    @classmethod
    def from_pretrained(cls, name, **options):
        if name == "broken":
            raise CheckpointError("broken/unet is missing.")
        cls.loaded.append((name, options))
        return cls()

    def expect(self, *targets):
        assert "depth" in targets

    def __call__(self, image, options, *, mask, callback):
        self.called.append(options)
        self.masks.append(mask)
        for step in (1, 2):
            callback(Progress("denoise", step, 2, preview=None))
        if self.error is not None and image[0, 0, 0] == 0:  # only black pictures fail
            raise self.error
        height, width, _ = image.shape
        depth = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
        spread = 0.1 * depth if options.ensemble_size > 1 else None
        return DepthMap(depth, spread, mask, seconds={"encode": 0.1, "denoise": 0.2})


@pytest.fixture(autouse=True)
def stand_in(monkeypatch, tmp_path):
    module = types.ModuleType("marigold_core.engine")
    module.Marigold = Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "marigold_core.engine", module)
    monkeypatch.setattr(Engine, "loaded", [])
    monkeypatch.setattr(Engine, "called", [])
    monkeypatch.setattr(Engine, "masks", [])
    monkeypatch.setattr(Engine, "error", None)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main changes it
    monkeypatch.chdir(tmp_path)


def picture(name: str, size: tuple[int, int] = (12, 8), colour: int = 200) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, colour, colour)).save(name)
    return name


def written(folder: str = "marigold_output") -> set[str]:
    """Without hidden files: the record of outputs."""
    root = Path(folder)
    files = (path for path in root.rglob("*") if path.is_file() and path.name[0] != ".")
    return {file.relative_to(root).as_posix() for file in files}


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and "Traceback" not in text


# --- depth ---------------------------------------------------------------------------------------


def test_depth_writes_three_pictures_and_says_where(capsys):
    assert main(["depth", picture("photo.jpg"), "--ensemble", "3"]) == 0
    assert written() == {"photo_depth.png", "photo_color.png", "photo_uncertainty.png"}
    out, err = capsys.readouterr()
    for name in written():
        assert str(Path("marigold_output", name)) in out
    for stage in ("read", "encode", "denoise", "save"):
        assert stage in out
    assert err == ""  # no progress bar where nobody looks on
    with Image.open("marigold_output/photo_depth.png") as depth:
        assert depth.mode.startswith("I")
        values = np.asarray(depth)
    assert values.shape == (8, 12)
    assert (values[0, 0], values[0, -1]) == (0, 65535)  # near is black
    red, _, blue = np.asarray(Image.open("marigold_output/photo_color.png"))[0, 0]
    assert red > blue  # near is red


def test_a_known_depth_is_compared_with(capsys):
    truth = np.tile(np.linspace(1000, 3000, 12), (8, 1)).astype(np.uint16)
    truth[0] = 0  # unknown
    Image.fromarray(truth).save("truth.png")
    assert main(["depth", picture("photo.jpg"), "--truth", "truth.png", "--ensemble", "2"]) == 0
    assert "photo_compared.png (AbsRel 0.000 " in capsys.readouterr().out
    with Image.open("marigold_output/photo_compared.png") as sheet:
        assert sheet.size == (5 * 12, 8)


def test_the_example_has_its_true_depth_with_it(capsys):
    assert main(["depth", "--example"]) == 0
    assert {"example_compared.png", "example_depth.png"} <= written()
    assert "AbsRel" in capsys.readouterr().out


def test_a_true_depth_of_another_size_costs_no_depth_map(capsys):
    Image.fromarray(np.ones((3, 4), np.uint16)).save("truth.png")
    assert main(["depth", picture("photo.jpg"), "--truth", "truth.png"]) != 0
    assert "true depth is 4x3" in (err := capsys.readouterr().err) and one_line(err), err
    assert "photo_depth.png" in written()


def test_options_reach_the_engine():
    arguments = "--checkpoint v1-1 --variant fp16 --device cpu --dtype bfloat16 --tiny-vae=tiny"
    sampling = "--steps 3 --ensemble 2 --resolution 96 --seed 7 --batch-size 4"
    assert main(["depth", picture("a.png"), *arguments.split(), *sampling.split()]) == 0
    assert Engine.loaded == [
        ("v1-1", {"variant": "fp16", "device": "cpu", "dtype": "bfloat16", "vae": "tiny"})
    ]
    called = Engine.called[0]
    assert called.seed == 7
    expected = {
        "num_inference_steps": 3,
        "ensemble_size": 2,
        "processing_resolution": 96,
        "batch_size": 4,
    }
    assert {name: getattr(called, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--ensemble 99999999", "ensemble_size"),
        (f"--resolution {10**20}", "processing_resolution"),
        (f"--seed {2**64}", "seed"),
        ("--steps 1001", "num_inference_steps"),
    ],
)
@pytest.mark.parametrize("command", ["depth", "mesh"])
def test_sampling_out_of_range_is_one_line_before_anything_loads(command, arguments, named, capsys):
    assert main([command, picture("a.png"), *arguments.split()]) == 2
    assert named in (err := capsys.readouterr().err) and one_line(err), err
    assert Engine.loaded == []


def test_an_empty_name_is_not_the_whole_folder(capsys):
    picture("a.png")
    assert main(["depth", ""]) == 2
    assert "empty" in (err := capsys.readouterr().err) and one_line(err), err


def test_defaults_are_nano_and_the_checkpoints_own():
    assert main(["depth", picture("a.png")]) == 0
    assert Engine.loaded == [("nano", {})]
    called = Engine.called[0]
    assert called.ensemble_size == 1
    for name in ("num_inference_steps", "processing_resolution", "batch_size"):
        assert getattr(called, name) is None
    assert Engine.masks == [None]


def test_float_formats_hold_the_same_depth():
    pytest.importorskip("OpenEXR")
    assert main(["depth", picture("a.png"), "--format", "npy,tiff,exr,png", "--colormap=none"]) == 0
    assert written() == {f"a_depth.{suffix}" for suffix in ("npy", "tiff", "exr", "png")}
    exact = np.load("marigold_output/a_depth.npy")
    for suffix in ("tiff", "exr"):
        np.testing.assert_array_equal(read_depth(f"marigold_output/a_depth.{suffix}").depth, exact)
    coarse = read_depth("marigold_output/a_depth.png").depth
    np.testing.assert_allclose(coarse, exact, atol=0.5 / 65535)


def test_invert_and_disparity_change_the_depth_but_not_the_colours():
    source = picture("a.png")
    runs = {"plain": [], "invert": ["--invert"], "disparity": ["--disparity", "1", "4"]}
    for name, options in runs.items():
        assert main(["depth", source, "-o", name, "--format", "npy", *options]) == 0
    depth = np.load("plain/a_depth.npy")
    np.testing.assert_allclose(np.load("invert/a_depth.npy"), 1 - depth, atol=1e-6)
    z = 1 + 3 * depth
    disparity = (1 / z - 1 / 4) / (1 - 1 / 4)
    np.testing.assert_allclose(np.load("disparity/a_depth.npy"), disparity, atol=1e-6)
    colours = {Path(name, "a_color.png").read_bytes() for name in runs}
    assert len(colours) == 1


def test_a_bad_file_is_reported_and_the_rest_goes_on(capsys):
    picture("in/a.png")
    Path("in/b.png").write_bytes(b"no picture")
    picture("in/sub/c.png")
    assert main(["depth", "in", "-o", "out"]) == 1
    assert {name for name in written("out") if "depth" in name} == {
        "a_depth.png",
        "sub/c_depth.png",
    }
    out, err = capsys.readouterr()
    assert one_line(err)
    assert "b.png" in err
    assert "2 pictures done, 1 failed" in out


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MarigoldError("the mask is empty."), "the mask is empty"),
        (MemoryError(), "Out of memory; try --batch-size 1"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "Out of memory",
        ),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA\nout of memory"), "Out of memory"),
        (OSError(28, "No space left on device", "x.png"), "No space left on device: x.png"),
        (KeyError("bug"), "--debug"),
    ],
)
def test_every_failure_is_one_line_and_the_next_picture_runs(capsys, monkeypatch, error, words):
    monkeypatch.setattr(Engine, "error", error)
    assert main(["depth", picture("a.png", colour=0), picture("b.png")]) == 1
    out, err = capsys.readouterr()
    assert one_line(err)
    assert "a.png" in err
    assert words in err
    assert "b_depth.png" in out


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(Engine, "error", MarigoldError("why"))
    with pytest.raises(MarigoldError, match="why"):
        main(["depth", picture("a.png", colour=0), "--debug"])


def test_control_c_ends_with_one_line_and_keeps_what_is_done(capsys, monkeypatch):
    monkeypatch.setattr(Engine, "error", KeyboardInterrupt())
    assert main(["depth", picture("a.png"), picture("b.png", colour=0), picture("c.png")]) == 130
    assert one_line(capsys.readouterr().err)
    assert written() == {"a_depth.png", "a_color.png"}


def test_skip_existing_runs_only_what_is_missing_and_loads_no_model_for_nothing():
    sources = [picture("a.png"), picture("b.png")]
    assert main(["depth", *sources]) == 0
    Path("marigold_output/b_color.png").unlink()
    assert main(["depth", *sources, "--skip-existing"]) == 0
    assert len(Engine.called) == 3
    assert main(["depth", *sources, "--skip-existing"]) == 0
    assert (len(Engine.called), len(Engine.loaded)) == (3, 2)
    assert main(["depth", *sources, "--skip-existing", "--ensemble", "2"]) == 0  # new outputs
    assert len(Engine.called) == 5


def test_same_names_in_two_folders_are_kept_apart():
    assert main(["depth", picture("x/a.png"), picture("y/a.png"), "--colormap", "none"]) == 0
    assert written() == {"x/a_depth.png", "y/a_depth.png"}


def test_mask_reaches_the_engine():
    mask = np.zeros((8, 12), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save("mask.png")
    assert main(["depth", picture("a.png"), "--mask", "mask.png"]) == 0
    np.testing.assert_array_equal(Engine.masks[0], mask > 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["paint"], "paint"),
        (["depth"], "No picture given"),
        (["depth", "none.png"], "no file or folder none.png"),
        (["depth", "empty"], "no pictures in the folder"),
        (["depth", "a.png", "--steps", "0"], "less than 1"),
        (["depth", "a.png", "--ensemble", "two"], "invalid whole number value: 'two'"),
        (["depth", "a.png", "--format", "png,gif"], "'gif' is not one of"),
        (["depth", "a.png", "--colormap", "jet"], "jet"),
        (["depth", "a.png", "--disparity", "2", "1"], "0 < NEAR < FAR"),
        (["depth", "a.png", "--checkpoint", "broken"], "broken/unet is missing"),
        (["depth", "--tiny-vae", "a.png"], "after the pictures"),
        (["depth", "a.png", "b.png", "--mask", "a.png"], "single picture"),
        (["depth", "a.png", "--mask", "none.png"], "none.png"),
        (["mesh"], "No picture given"),
        (["mesh", "none.png"], "none.png"),
        (["mesh", "a.png", "-o", "a.stl"], ".glb, .ply, .obj"),
        (["mesh", "a.png", "--near", "0"], "Near is 0"),
        (["mesh", "a.png", "--fov", "180"], "field of view"),
        (["mesh", "a.png", "--tear", "1"], "tear ratio"),
        (["mesh", "a.png", "--max-vertices", "3"], "allow 4 or more"),
        (["mesh", "a.png", "--invert"], "--depth"),
        (["mesh", "a.png", "--depth", "none.exr"], "none.exr"),
        (["mesh", "a.png", "--depth", "wide.npy"], "do not belong together"),
        (["mesh", "a.png", "--depth", "metres.npy"], "from 1 to 30"),
        (["checkpoints"], "ACTION"),
        (["checkpoints", "inspect", "no-such"], "no-such"),
        (["checkpoints", "download", "no-such"], "cannot be downloaded"),
    ],
)
def test_wrong_usage_is_said_without_running_the_model(capsys, arguments, words):
    Path("empty").mkdir()
    picture("a.png")
    picture("b.png")
    np.save("wide.npy", np.zeros((8, 40), np.float32))
    np.save("metres.npy", np.linspace(1, 30, 96, dtype=np.float32).reshape(8, 12))
    assert main(arguments) == 2
    assert Engine.called == []
    out, err = capsys.readouterr()
    assert words in err
    assert "Traceback" not in err
    assert not Path("marigold_output").exists()


def test_an_output_folder_that_is_a_file(capsys):
    Path("out").write_text("mine")
    assert main(["depth", picture("a.png"), "-o", "out"]) == 2
    assert one_line(capsys.readouterr().err)
    assert Path("out").read_text() == "mine"


# --- mesh ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["glb", "ply", "obj"])
def test_mesh_of_a_picture(capsys, suffix):
    source = picture("photo.jpg", (60, 40))
    assert main(["mesh", source, "-o", f"m/photo.{suffix}", "--near", "2", "--far", "4"]) == 0
    assert f"photo.{suffix}" in capsys.readouterr().out
    read = trimesh.load(f"m/photo.{suffix}", force="mesh", process=False)
    assert len(read.vertices) == 60 * 40
    z = -np.asarray(read.vertices)[:, 2]
    assert (z.min(), z.max()) == (pytest.approx(2), pytest.approx(4))


def test_a_photograph_stays_a_jpeg_in_the_mesh():
    assert main(["mesh", picture("photo.jpg"), "-o", "m.glb", "--tear", "inf"]) == 0
    assert b"image/jpeg" in Path("m.glb").read_bytes()
    assert main(["mesh", picture("photo.png"), "--tear", "inf"]) == 0
    assert b"image/png" in Path("photo.glb").read_bytes()  # the default name


def test_mesh_from_a_depth_file_needs_no_model():
    depth = np.tile(np.linspace(0, 1, 30, dtype=np.float32), (20, 1))
    depth[0, 0] = np.nan
    np.save("d.npy", depth)
    mask = np.full((20, 30), 255, np.uint8)
    mask[-1, -1] = 0
    Image.fromarray(mask).save("mask.png")
    source = picture("a.png", (60, 40))  # the texture may be larger than the depth map
    run = ["mesh", source, "--depth", "d.npy", "--tear", "inf", "--mask", "mask.png"]
    assert main([*run, "-o", "m.ply"]) == 0
    assert main([*run, "-o", "i.ply", "--invert"]) == 0
    assert Engine.loaded == []
    plain, inverted = (trimesh.load(name, process=False) for name in ("m.ply", "i.ply"))
    # The hole and the masked corner take their pixel and their faces.
    assert len(plain.vertices) == len(inverted.vertices) == 600 - 2
    left = plain.vertices[:, 0].argmin()
    assert -plain.vertices[left, 2] < -inverted.vertices[left, 2]


def test_a_filled_mesh_has_a_layer_behind_its_tears():
    depth = np.full((20, 30), 0.9, dtype=np.float32)
    depth[5:15, 10:20] = 0.1
    np.save("d.npy", depth)
    run = ["mesh", picture("a.jpg", (60, 40)), "--depth", "d.npy"]
    assert main([*run, "-o", "torn.ply"]) == 0
    assert main([*run, "-o", "filled.ply", "--fill"]) == 0
    torn, filled = (trimesh.load(name, process=False) for name in ("torn.ply", "filled.ply"))
    assert len(filled.faces) > len(torn.faces) + 2 * 8 * 8
    # As large as the picture, and not as the centres of its outer pixels.
    assert np.ptp(filled.vertices[:, 0]) == pytest.approx(np.ptp(torn.vertices[:, 0]) * 30 / 29)


def test_a_panorama_becomes_a_mesh_around_its_centre(capsys):
    np.save("d.npy", np.full((20, 40), 0.25, dtype=np.float32))
    run = ["mesh", picture("pano.jpg", (80, 40)), "--depth", "d.npy", "--panorama"]
    assert main([*run, "-o", "pano.glb", "--near", "1", "--far", "5"]) == 0
    assert "a panorama" in capsys.readouterr().out
    read = trimesh.load("pano.glb", force="mesh", process=False)
    assert np.allclose(np.linalg.norm(read.vertices, axis=1), 2, atol=1e-5)
    assert main([*run, "-o", "other.glb", "--fill"]) != 0
    assert "--panorama" in capsys.readouterr().err


# --- with the real engine ------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["v1-1", "lcm", "e2e"])
def test_a_checkpoint_from_end_to_end(monkeypatch, capsys, recwarn, family):
    """The stand-in is believable: what these commands ask of the engine, the real one answers."""
    import torch
    from checkpoint_builders import build_checkpoint

    monkeypatch.delitem(sys.modules, "marigold_core.engine")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        build_checkpoint(Path("model"), family)
        capsys.readouterr()
        sampling = ["--checkpoint", "model", "--resolution", "64", "--device=cpu"]
        sampling += ["--steps", "1" if family == "e2e" else "2"]
        sampling += ["--ensemble", "2", "--batch-size", "1", "--dtype", "float32"]
        source = picture("photo.png", (70, 50))
        assert main(["depth", source, *sampling, "-o", "out"]) == 0, capsys.readouterr().err
        assert main(["mesh", source, *sampling, "-o", "photo.glb", "--tear", "inf"]) == 0
        assert main(["depth", source, *sampling, "-o", "again"]) == 0
    finally:
        torch.set_num_threads(threads)
    out, err = capsys.readouterr()
    for words in ("model: loaded in", "encode", "denoise", "decode", "ensemble", "3500 vertices"):
        assert words in out
    assert err == ""
    assert any("zeros instead of noise" in str(w.message) for w in recwarn) == (family == "e2e")
    assert written("out") == {"photo_depth.png", "photo_color.png", "photo_uncertainty.png"}
    assert read_depth("out/photo_depth.png").depth.shape == (50, 70)
    first = Path("out/photo_depth.png").read_bytes()
    assert Path("again/photo_depth.png").read_bytes() == first  # --seed has a default

    assert main(["checkpoints", "inspect", "model"]) == 0
    out = capsys.readouterr().out
    family = "ddim" if family == "v1-1" else family
    assert f"family:       {family}" in out
    assert "M parameters" in out


# --- the rest ------------------------------------------------------------------------------------


def test_checkpoints_list_names_the_published_ones_and_their_licences(capsys):
    assert main(["checkpoints", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line}
    assert "prs-eth/marigold-depth-v1-1" in rows["v1-1"]
    assert "OpenRAIL++-M" in rows["v1-1"]
    assert {"nano", "v1-0", "lcm", "e2e"} <= rows.keys()


def test_help_and_version(capsys):
    for arguments in (["--help"], ["depth", "--help"], ["mesh", "--help"], ["--version"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\nfrom marigold_core.cli.arguments import main\n"
        "assert main(['depth', '--help']) == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_run_imports_torch_and_not_what_only_other_checkpoints_need(tmp_path):
    """A cold start is imports; diffusers alone takes longer to import than torch."""
    code = (
        # What torch imports with itself is its own.
        "import sys, torch\nown = set(sys.modules)\nfrom marigold_core.cli import main\n"
        f"assert main(['depth', '--example', '--resolution', '64', '-o', {str(tmp_path)!r}]) == 0\n"
        "new = set(sys.modules) - own\n"
        "print(*sorted({name.split('.')[0] for name in new} | new))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    unwanted = {
        "diffusers", "transformers", "tokenizers", "huggingface_hub", "accelerate", "peft", "scipy",
        "requests", "torchvision", "matplotlib",
    }  # fmt: skip
    if tuple(map(int, version("einops").split(".")[:3])) > (0, 8, 0):  # 0.8.0 imports these
        unwanted |= {"torch._dynamo", "torch._inductor", "sympy"}
    assert "marigold_core" in loaded
    assert not loaded & unwanted


def test_file_names_that_the_terminal_cannot_show(capsys):
    name = picture("caf\u00e9 \u6df1\u5ea6.png")
    assert main(["depth", name]) == 0
    assert Path("marigold_output/caf\u00e9 \u6df1\u5ea6_depth.png").exists()
