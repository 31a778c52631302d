from __future__ import annotations

import json
import os
import re
import shutil
import struct

import checkpoint_builders as builders
import numpy as np
import pytest
import torch
from checkpoint_builders import (
    BROKEN,
    FAMILIES,
    build_bare_unet,
    build_checkpoint,
    build_tiny_autoencoder,
    build_training_output,
    edit_json,
    edit_weights,
    unet_file,
)
from diffusers import AutoencoderTiny, MarigoldDepthPipeline, UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from marigold_core.checkpoints.autoencoder import Autoencoder
from marigold_core.checkpoints.inspection import inspect_checkpoint
from marigold_core.checkpoints.loading import load_checkpoint
from marigold_core.checkpoints.weights import read_header, variant_files
from marigold_core.errors import CheckpointError, MarigoldError
from marigold_core.intrinsics import IntrinsicMap

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("user_cache")

EXPECTED = {  # family, steps, resolution, scale-invariant, shift-invariant
    "v1-1": ("ddim", 4, 768, True, True),
    "v1-0": ("ddim", 10, 768, True, True),
    "v1-0-early": ("ddim", 10, 768, True, True),
    "lcm": ("lcm", 1, 768, True, True),
    "e2e": ("e2e", 1, 768, True, True),
    "scale-only": ("ddim", 4, 768, True, False),
    "metric": ("ddim", 4, 768, False, False),
    "epsilon": ("ddim", 4, 768, True, True),
    "sample": ("ddim", 4, 768, True, True),
    "normals-v1-1": ("ddim", 4, 768, True, True),
    "normals-v0-1": ("ddim", 10, 768, True, True),
    "normals-lcm": ("lcm", 1, 768, True, True),
    "normals-e2e": ("e2e", 1, 768, True, True),
    "normals-half-z": ("ddim", 4, 768, True, True),
    "iid-appearance": ("ddim", 4, 768, True, True),
    "iid-lighting": ("ddim", 4, 768, True, True),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_is_described_and_loaded(tmp_path, family):
    folder = build_checkpoint(tmp_path / f"marigold-{family}", family)
    checkpoint = load_checkpoint(folder)
    info = checkpoint.info
    kinds = {"normals": "normals", "iid": "intrinsics"}
    assert info.target == kinds.get(family.split("-")[0], "depth")
    assert info.full_z_range == (family != "normals-half-z")
    described = (
        info.family,
        info.num_inference_steps,
        info.processing_resolution,
        info.scale_invariant,
        info.shift_invariant,
    )
    assert described == EXPECTED[family]
    assert info.ensemble_size == 1
    assert info.class_name == FAMILIES[family][0]["_class_name"]
    assert info.scaling_factor == checkpoint.vae.config.scaling_factor == 0.18215
    assert checkpoint.scheduler_config == FAMILIES[family][1]
    assert checkpoint.text_embedding.shape == (1, 2, builders.TEXT_WIDTH)
    assert not checkpoint.unet.training
    reference = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    inputs = torch.randn(1, reference.config.in_channels, 8, 8), torch.tensor(999)
    with torch.no_grad():
        expected = reference(*inputs, encoder_hidden_states=checkpoint.text_embedding).sample
        torch.testing.assert_close(checkpoint.unet(*inputs).sample, expected, rtol=0, atol=1e-5)


def test_defaults_where_the_files_are_silent(folder):
    edit_json(
        folder / "model_index.json",
        default_denoising_steps=...,
        default_processing_resolution=...,
        scale_invariant=...,
        shift_invariant=None,
    )
    info = inspect_checkpoint(folder)
    assert (info.num_inference_steps, info.processing_resolution) == (4, 768)
    assert info.scale_invariant and info.shift_invariant
    edit_json(folder / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=False)
    assert inspect_checkpoint(folder).num_inference_steps == 10


def test_contents_outweigh_the_class_name(folder):
    edit_json(folder / "model_index.json", _class_name="SomebodysOwnPipeline")
    assert inspect_checkpoint(folder).family == "ddim"
    scheduler = folder / "scheduler" / "scheduler_config.json"
    edit_json(scheduler, **builders.LCM)
    assert inspect_checkpoint(folder).family == "lcm"


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_is_refused_by_file_and_fact(folder, case):
    breaks, words = BROKEN[case]
    breaks(folder)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_the_name_tells_normals_that_say_nothing_else(built, tmp_path):
    folder = shutil.copytree(built, tmp_path / "marigold-e2e-ft-normals")
    edit_json(
        folder / "model_index.json", _class_name="StableDiffusionPipeline", prediction_type=...
    )
    info = inspect_checkpoint(folder)
    assert (info.target, info.family) == ("normals", "e2e")
    moved = folder.rename(tmp_path / "abnormals")
    assert inspect_checkpoint(moved).target == "depth"


def test_intrinsic_images_are_described_in_the_checkpoints_order(tmp_path):
    appearance = inspect_checkpoint(build_checkpoint(tmp_path / "a", "iid-appearance"))
    assert appearance.maps == (
        IntrinsicMap("albedo", 0, None, "srgb"),
        IntrinsicMap("roughness", 1, 0, "linear"),
        IntrinsicMap("metallicity", 1, 1, "linear"),
    )
    lighting = inspect_checkpoint(build_checkpoint(tmp_path / "b", "iid-lighting"))
    assert lighting.maps == (
        IntrinsicMap("albedo", 0, None, "linear"),
        IntrinsicMap("shading", 1, None, "linear", up_to_scale=True),
        IntrinsicMap("residual", 2, None, "linear", up_to_scale=True),
    )


def test_what_it_advises_for_pickles_works(folder):
    builders.to_pickle(folder)
    with pytest.raises(CheckpointError) as caught:
        inspect_checkpoint(folder)
    code = re.search(r'python -c "(.+)"', str(caught.value))
    assert code is not None
    exec(code[1], {})  # noqa: S102 (our own message, and a process of its own takes seconds)
    load_checkpoint(folder)


@pytest.mark.parametrize("wanted", [None, "float32", "auto", torch.float32])
def test_half_precision_files_give_float32_on_the_cpu(tmp_path, wanted):
    folder = build_checkpoint(tmp_path / "checkpoint", variant="fp16")
    checkpoint = load_checkpoint(folder, dtype=wanted)
    assert set(checkpoint.info.variants.values()) == {"fp16"}
    assert checkpoint.info.weights["unet"].dtype == "F16"
    dtypes = {weight.dtype for weight in (*checkpoint.unet.parameters(),
                                          *checkpoint.vae.parameters(),
                                          checkpoint.text_embedding)}  # fmt: skip
    assert dtypes == {torch.float32}


def test_each_component_has_its_own_variant(folder):
    plain = unet_file(folder)
    half = {name: weight.half() for name, weight in load_file(plain).items()}
    save_file(half, plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    for wanted, variant in ((None, None), ("float32", None), ("float16", "fp16")):
        assert inspect_checkpoint(folder, dtype=wanted).variants["unet"] == variant
    info = inspect_checkpoint(folder, variant="fp16")
    assert (info.variants["unet"], info.variants["vae"]) == ("fp16", None)
    assert load_checkpoint(folder, dtype="bf16").unet.conv_in.weight.dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match="no 'int8' weights"):
        inspect_checkpoint(folder, variant="int8")
    with pytest.raises(MarigoldError, match="float7"):
        load_checkpoint(folder, dtype="float7")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_sharded_weights(tmp_path, variant):
    folder = build_checkpoint(tmp_path / "checkpoint", variant=variant)
    whole = load_checkpoint(folder).unet.state_dict()
    builders.shard(folder / "unet", variant)
    parts = load_checkpoint(folder).unet.state_dict()
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())


def test_a_shard_index_cannot_point_outside_its_folder(folder):
    builders.shard(folder / "unet")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    edit_json(index, weight_map={"conv_in.weight": "../../elsewhere.safetensors"})
    with pytest.raises(CheckpointError, match="elsewhere"):
        inspect_checkpoint(folder)


def test_old_attention_names_are_understood(folder):
    now = load_checkpoint(folder).vae.state_dict()
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    builders.old_attention_names(file)
    assert any(name.endswith("proj_attn.weight") for name in load_file(file))
    then = load_checkpoint(folder).vae.state_dict()
    assert all(torch.equal(then[name], weight) for name, weight in now.items())


def test_a_training_output_takes_the_rest_from_its_base(folder, tmp_path):
    output = build_training_output(tmp_path / "run" / "latest")
    with pytest.raises(CheckpointError, match="holds only a U-Net.*vae.*base="):
        inspect_checkpoint(output)
    edit_json(folder / "model_index.json", default_denoising_steps=7)
    for named in (output, output / "unet"):
        checkpoint = load_checkpoint(named, base=folder)
        assert checkpoint.info.folders["scheduler"] == output / "scheduler"
        assert checkpoint.info.num_inference_steps == 7
        trained = load_file(unet_file(output))["conv_in.weight"]
        assert torch.equal(checkpoint.unet.conv_in.weight, trained)


def test_a_bare_unet_on_a_stable_diffusion_base_is_not_end_to_end(folder, tmp_path):
    unet = build_bare_unet(tmp_path / "my-unet")
    assert load_checkpoint(unet, base=folder).info.family == "ddim"
    edit_json(folder / "model_index.json", _class_name="StableDiffusionPipeline")
    assert inspect_checkpoint(unet, base=folder).family == "e2e"
    builders.replace_unet(folder, in_channels=4)
    assert inspect_checkpoint(unet, base=folder).family == "ddim"


def test_another_autoencoder_in_place_of_the_vae(folder, tmp_path):
    tiny = build_tiny_autoencoder(tmp_path / "taesd")
    checkpoint = load_checkpoint(folder, vae=tiny)
    assert isinstance(checkpoint.vae, AutoencoderTiny)
    assert load_checkpoint(folder, vae=checkpoint.vae).vae is checkpoint.vae
    other = build_checkpoint(tmp_path / "other", seed=3)
    for place in (other, other / "vae"):
        vae = load_checkpoint(folder, vae=place).vae
        assert isinstance(vae, Autoencoder)
        stored = load_file(other / "vae" / "diffusion_pytorch_model.safetensors")
        assert torch.equal(vae.decoder.conv_in.weight, stored["decoder.conv_in.weight"])
    with pytest.raises(CheckpointError, match="UNet2DConditionModel"):
        load_checkpoint(folder, vae=folder / "unet")


def test_description_reads_no_weights(folder, monkeypatch):
    monkeypatch.setattr("marigold_core.checkpoints.weights.Weights.load", None)
    info = inspect_checkpoint(folder)
    reference = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    assert info.parameters["unet"] == reference.num_parameters()
    assert info.size_bytes > unet_file(folder).stat().st_size


def test_diffusers_own_pipeline_opens_what_the_builders_write(folder):
    pipeline = MarigoldDepthPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    depth = pipeline(
        image,
        num_inference_steps=2,
        processing_resolution=64,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).prediction
    assert np.std(depth) > 0.05
    embedding = load_checkpoint(folder).text_embedding
    torch.testing.assert_close(pipeline.empty_text_embedding, embedding, rtol=0, atol=1e-6)


# Files that nobody meant to be checkpoints

QUICK = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(data=st.data())
def test_any_cut_or_change_of_the_header_is_an_error_or_harmless(built, tmp_path, data):
    whole = unet_file(built).read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    at = data.draw(st.integers(0, 8 + length - 1))
    file = tmp_path / "model.safetensors"
    if data.draw(st.booleans()):
        file.write_bytes(whole[:at])
        with pytest.raises(CheckpointError, match="model.safetensors"):
            read_header(file)
    else:
        file.write_bytes(whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :])
        try:
            read_header(file)
        except CheckpointError as error:
            assert "model.safetensors" in str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2000) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@QUICK
@given(data=st.data())
def test_any_value_in_a_configuration_is_used_or_refused(built, tmp_path, data):
    parts = ("unet", "vae", "scheduler", "model_index.json")
    part = data.draw(st.sampled_from(parts))
    folder = tmp_path / "linked"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(built, folder, copy_function=os.link)
    file = folder / part if part.endswith("json") else next((folder / part).glob("*config.json"))
    content = json.loads(file.read_text())
    key = data.draw(st.sampled_from(sorted(content)))
    file.unlink()
    builders.write_json(file, content | {key: data.draw(JSON)})
    try:
        info = inspect_checkpoint(folder)
    except MarigoldError as error:
        assert str(error)
        assert "Traceback" not in str(error)
    else:
        assert info.num_inference_steps >= 1


@QUICK
@given(st.text("abc.-_0123456789", max_size=40))
def test_any_file_name_is_weights_or_not(name):
    for variant, found in variant_files([name, f"model.{name}.safetensors"]).items():
        assert found.endswith((".safetensors", ".json"))
        assert variant is None or variant in found


def test_weights_are_copies_of_their_file(folder):
    """A mapped file that training overwrites would crash the process that has it loaded."""
    unet = load_checkpoint(folder).unet
    before = unet.conv_in.weight.detach().contiguous()
    edit_weights(unet_file(folder), {"conv_in.weight": torch.zeros_like(before)})
    unet_file(folder).write_bytes(b"")
    assert torch.equal(unet.conv_in.weight, before)
