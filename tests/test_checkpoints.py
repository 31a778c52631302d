from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
from diffusers import AutoencoderKL, AutoencoderTiny, MarigoldDepthPipeline, UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from marigold_core import empty_prompt, hub
from marigold_core.checkpoints import (
    BUNDLED,
    PUBLISHED,
    empty_prompt_embedding,
    inspect_checkpoint,
    load_checkpoint,
)
from marigold_core.errors import CheckpointError, MarigoldError
from marigold_core.weights import find_weights, read_header, variant_files

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """No test reads or writes the caches of whoever runs it, or the network."""
    folder = tmp_path / "user-cache"
    monkeypatch.setattr(empty_prompt, "user_cache_folder", lambda: folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One v1-1 checkpoint, to be copied."""
    return build_checkpoint(tmp_path_factory.mktemp("built") / "v1-1")


@pytest.fixture
def folder(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "checkpoint"))


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
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_is_described_and_loaded(tmp_path, family):
    folder = build_checkpoint(tmp_path / "checkpoint", family)
    checkpoint = load_checkpoint(folder)
    info = checkpoint.info
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
    reference = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").state_dict()
    loaded = checkpoint.unet.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in reference.items())


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
    with pytest.raises(CheckpointError, match="normals"):
        inspect_checkpoint(folder)
    moved = folder.rename(tmp_path / "abnormals")
    assert inspect_checkpoint(moved).family == "e2e"


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
    assert load_checkpoint(folder, dtype="bf16").unet.dtype == torch.bfloat16
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
        assert isinstance(vae, AutoencoderKL)
        stored = load_file(other / "vae" / "diffusion_pytorch_model.safetensors")
        assert torch.equal(vae.decoder.conv_in.weight, stored["decoder.conv_in.weight"])
    with pytest.raises(CheckpointError, match="UNet2DConditionModel"):
        load_checkpoint(folder, vae=folder / "unet")


def test_description_reads_no_weights(folder, monkeypatch):
    monkeypatch.setattr("marigold_core.weights.safe_open", None)
    info = inspect_checkpoint(folder)
    reference = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    assert info.parameters["unet"] == reference.num_parameters()
    assert info.size_bytes > unet_file(folder).stat().st_size


# The empty prompt


def test_the_embedding_is_what_transformers_computes(folder):
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokens = tokenizer("", padding="do_not_pad", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = CLIPTextModel.from_pretrained(folder / "text_encoder")(tokens)[0]
    embedding = empty_prompt_embedding(folder)
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-6)
    assert embedding.std() > 0.5


def test_both_namings_of_text_weights_and_both_tokenizers(folder):
    """transformers 5 saves without `text_model.` and without vocab.json; 4 saves with both."""
    expected = empty_prompt_embedding(folder)
    (folder / empty_prompt.FILE_NAME).unlink()
    file = folder / "text_encoder" / "model.safetensors"
    weights = {name.removeprefix("text_model."): w for name, w in load_file(file).items()}
    weights["embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, file)
    vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    (folder / "tokenizer" / "vocab.json").unlink()
    content = {"model": {"vocab": vocabulary}, "added_tokens": []}
    builders.write_json(folder / "tokenizer" / "tokenizer.json", content)
    assert torch.equal(empty_prompt_embedding(folder), expected)


def test_the_nano_text_encoder_has_the_names_that_every_transformers_reads(folder):
    names = list(load_file(folder / "text_encoder" / "model.safetensors"))
    assert all(name.startswith("text_model.") for name in names)
    files = {file.name for file in (folder / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= files
    config = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 77


def test_the_embedding_is_kept_beside_the_checkpoint(folder, user_cache, monkeypatch):
    first = empty_prompt_embedding(folder)
    assert (folder / empty_prompt.FILE_NAME).is_file()
    assert not user_cache.exists()
    monkeypatch.setattr(empty_prompt, "encode_empty_prompt", None)
    assert torch.equal(empty_prompt_embedding(folder), first)
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    assert torch.equal(load_checkpoint(folder).text_embedding, first)


def test_a_kept_embedding_needs_no_transformers(folder):
    load_checkpoint(folder)
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from marigold_core.empty_prompt import empty_prompt_embedding as e\n"
        f"print(tuple(e({str(folder)!r}).shape))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == f"(1, 2, {builders.TEXT_WIDTH})", done.stderr


def test_a_changed_text_encoder_makes_a_new_embedding(folder):
    first = empty_prompt_embedding(folder)
    builders.write_nano_text_encoder(folder, builders.TEXT_WIDTH, seed=9)
    second = empty_prompt_embedding(folder)
    assert not torch.equal(first, second)
    (folder / empty_prompt.FILE_NAME).write_bytes(b"damaged")
    assert torch.equal(empty_prompt_embedding(folder), second)


@pytest.mark.parametrize("shared", ["hub", "bundled", "read-only"])
def test_a_shared_folder_stays_as_it_is(folder, tmp_path, user_cache, monkeypatch, shared):
    if shared == "hub":
        (tmp_path / "repo" / "blobs").mkdir(parents=True)
        (tmp_path / "repo" / "snapshots").mkdir()
        folder = folder.rename(tmp_path / "repo" / "snapshots" / "0123abcd")
    elif shared == "bundled":
        monkeypatch.setitem(hub.BUNDLED, "nano", folder)
    else:
        write = empty_prompt.write_embedding

        def refuse(file, *rest):
            if folder in file.parents:
                raise PermissionError(13, "read-only")
            write(file, *rest)

        monkeypatch.setattr(empty_prompt, "write_embedding", refuse)
    before = sorted(folder.rglob("*"))
    first = empty_prompt_embedding(folder)
    assert sorted(folder.rglob("*")) == before
    assert len(list(user_cache.rglob("*.safetensors"))) == 1
    monkeypatch.setattr(empty_prompt, "encode_empty_prompt", None)
    assert torch.equal(empty_prompt_embedding(folder), first)


def test_no_cache_at_all_is_no_error(folder, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(empty_prompt, "write_embedding", refuse)
    assert empty_prompt_embedding(folder).any()


@pytest.mark.parametrize(
    "stored", [torch.zeros(1, 2, 32), torch.full((1, 2, 32), torch.nan), torch.ones(2, 32)]
)
def test_a_kept_embedding_that_cannot_be_right_is_not_used(folder, stored):
    expected = empty_prompt_embedding(folder)
    file = folder / empty_prompt.FILE_NAME
    key = empty_prompt.fingerprint(find_weights(folder / "text_encoder"))
    empty_prompt.write_embedding(file, stored, key)
    assert torch.equal(empty_prompt_embedding(folder), expected)
    empty_prompt.write_embedding(file, stored, key)
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(CheckpointError, match="embedding"):
        empty_prompt_embedding(folder)


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


# Names


def test_names_that_are_nothing(tmp_path):
    for name, words in (
        ("nanoo", "v1-1"),
        (str(tmp_path / "absent"), "neither a folder"),
        ("./absent/folder/here", "neither a folder"),
        ("", "neither a folder"),
    ):
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(name)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file"):
        load_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["v1-1", "marigold-depth-v1-1", "prs-eth/marigold-depth-v1-1"])
def test_offline_without_the_checkpoint_says_how_to_get_it(name):
    with pytest.raises(CheckpointError, match=f"marigold checkpoints download {name}"):
        load_checkpoint(name)


def cache_as_hub_does(folder: Path, cache: Path, repo_id: str) -> Path:
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    commit = "0" * 40
    (repo / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(folder, repo / "snapshots" / commit))


def test_a_cached_checkpoint_is_loaded_without_a_network(built, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(hub, "download", unreachable)
    cache = tmp_path / "hub"
    snapshot = cache_as_hub_does(built, cache, PUBLISHED["v1-1"])
    for name in ("v1-1", PUBLISHED["v1-1"]):
        assert load_checkpoint(name, cache_dir=cache).info.folder == snapshot
    known = {entry.name: entry for entry in hub.list_known(cache)}
    assert known["v1-1"].folder == snapshot
    assert known["v1-1"].size_bytes > unet_file(snapshot).stat().st_size
    assert known["v1-0"].folder is None
    assert set(BUNDLED) | set(PUBLISHED) <= set(known)
    unet_file(snapshot).unlink()
    with pytest.raises(CheckpointError, match="only partly in the cache"):
        load_checkpoint("v1-1", cache_dir=cache)


def test_what_is_fetched_of_a_repository():
    names = [
        ".gitattributes", "README.md", "LICENSE-MODEL.txt", "model_index.json", "v2.ckpt",
        "v2.safetensors", "pipeline.py", "unet/config.json",
        "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json", "text_encoder/model.safetensors.index.json",
        "text_encoder/model.safetensors.index.fp16.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "safety_checker/model.safetensors",
    ]  # fmt: skip
    plain = hub.files_to_fetch(names)
    texts = {"README.md", "LICENSE-MODEL.txt", "model_index.json", "unet/config.json",
             "vae/config.json", "text_encoder/config.json",
             "text_encoder/model.safetensors.index.json",
             "text_encoder/model.safetensors.index.fp16.json"}  # fmt: skip
    assert set(plain) - texts == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model-00001-of-00002.safetensors",
    }
    assert set(hub.files_to_fetch(names, "fp16")) - texts == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.fp16-00001-of-00002.safetensors",
    }
    assert texts <= set(plain)
    taesd = ["config.json", "diffusion_pytorch_model.safetensors", "taesd_encoder.safetensors"]
    assert hub.files_to_fetch(taesd) == taesd[:2]


def failure(kind: str) -> Exception:
    from huggingface_hub import errors

    if kind == "disk":
        return OSError(28, "No space left on device")
    if kind == "network":
        error = RuntimeError("HTTPSConnectionPool(host='huggingface.co'): Max retries exceeded")
        error.__cause__ = socket.gaierror(-2, "Name or service not known")
        return error
    classes: dict[str, Any] = {
        "gated": errors.GatedRepoError,
        "absent": errors.RepositoryNotFoundError,
        "offline": errors.OfflineModeIsEnabled,
    }
    # Their constructors want a response of whichever HTTP library is beneath.
    return classes[kind].__new__(classes[kind])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("disk", "disk is full"),
        ("network", "huggingface.co cannot be reached.*goes on where it stopped"),
        ("gated", "accept its terms"),
        ("absent", "no public checkpoint at https://huggingface.co/some/thing"),
        ("offline", "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_failed_download_says_what_to_do(monkeypatch, kind, words):
    def fail(*_, **__):
        raise failure(kind)

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", fail)
    with pytest.raises(CheckpointError, match=words) as caught:
        hub.download("some/thing")
    assert "\n" not in str(caught.value)


def test_pickle_only_repositories_are_not_fetched(monkeypatch):
    files = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"]
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: files)
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(CheckpointError, match="no .safetensors"):
        hub.download("some/thing")


def test_the_users_cache_follows_the_system(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    if sys.platform != "darwin":
        assert empty_prompt.user_cache_folder() == tmp_path / "marigold-kit"


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
def test_any_value_in_a_configuration_is_used_or_refused_in_a_sentence(built, tmp_path, data):
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


def test_an_embedding_is_not_recomputed_at_every_start(folder):
    load_checkpoint(folder)
    stamp = (folder / empty_prompt.FILE_NAME).stat().st_mtime_ns
    time.sleep(0.01)
    load_checkpoint(folder)
    assert (folder / empty_prompt.FILE_NAME).stat().st_mtime_ns == stamp


def test_weights_are_copies_of_their_file(folder):
    """A mapped file that training overwrites would crash the process that has it loaded."""
    unet = load_checkpoint(folder).unet
    before = unet.conv_in.weight.detach().clone()
    edit_weights(unet_file(folder), {"conv_in.weight": torch.zeros_like(before)})
    unet_file(folder).write_bytes(b"")
    assert torch.equal(unet.conv_in.weight, before)


def test_the_bundled_embedding_is_what_the_bundled_text_encoder_gives():
    nano = hub.BUNDLED["nano"]
    text_encoder = find_weights(nano / "text_encoder")
    key = empty_prompt.fingerprint(text_encoder)
    shipped = empty_prompt.read_embedding(nano / empty_prompt.FILE_NAME, key)
    computed = empty_prompt.encode_empty_prompt(nano, text_encoder)
    torch.testing.assert_close(shipped, computed, atol=1e-5, rtol=1e-5)
