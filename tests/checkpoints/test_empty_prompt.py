from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import checkpoint_builders as builders
import pytest
import torch
from safetensors.torch import load_file, save_file

from marigold_core.checkpoints import empty_prompt, hub
from marigold_core.checkpoints.empty_prompt import empty_prompt_embedding
from marigold_core.checkpoints.loading import load_checkpoint
from marigold_core.checkpoints.weights import find_weights
from marigold_core.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("user_cache")


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
        "from marigold_core.checkpoints.empty_prompt import empty_prompt_embedding as e\n"
        f"print(tuple(e({str(folder)!r}).shape))"
    )
    root = Path(__file__).parents[2]
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


def test_an_embedding_is_not_recomputed_at_every_start(folder):
    load_checkpoint(folder)
    stamp = (folder / empty_prompt.FILE_NAME).stat().st_mtime_ns
    time.sleep(0.01)
    load_checkpoint(folder)
    assert (folder / empty_prompt.FILE_NAME).stat().st_mtime_ns == stamp


def test_the_bundled_embedding_is_what_the_bundled_text_encoder_gives():
    nano = hub.BUNDLED["nano"]
    text_encoder = find_weights(nano / "text_encoder")
    key = empty_prompt.fingerprint(text_encoder)
    shipped = empty_prompt.read_embedding(nano / empty_prompt.FILE_NAME, key)
    computed = empty_prompt.encode_empty_prompt(nano, text_encoder)
    torch.testing.assert_close(shipped, computed, atol=1e-5, rtol=1e-5)


def test_the_users_cache_follows_the_system(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    if sys.platform != "darwin":
        assert empty_prompt.user_cache_folder() == tmp_path / "marigold-kit"
