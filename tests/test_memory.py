"""Batches: their size, and what happens when memory runs out."""

from __future__ import annotations

import pytest
import torch
from checkpoint_builders import tiny_unet, tiny_vae

from marigold_core.errors import MarigoldError, is_out_of_memory
from marigold_core.memory import in_batches, run_activations, unet_activations, unet_batch

CPU = torch.device("cpu")


class Limited:
    """A device with room for `limit` members."""

    def __init__(self, limit: int, error: Exception) -> None:
        self.limit = limit
        self.error = error
        self.tried: list[int] = []

    def __call__(self, part: slice) -> torch.Tensor:
        size = part.stop - part.start
        self.tried.append(size)
        if size > self.limit:
            raise self.error
        return torch.arange(part.start, part.stop)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError("not enough memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Command buffer execution failed: Insufficient Memory (00000008)"),
        MemoryError(),
    ],
)
def test_batches_halve_until_they_fit_and_stay_there(error):
    device = Limited(2, error)
    assert in_batches(device, 11, 8).tolist() == list(range(11))
    assert device.tried == [8, 4, 2, 2, 2, 2, 2, 1]


def test_a_member_that_does_not_fit_is_one_line_with_advice():
    device = Limited(0, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(MarigoldError, match="lower the processing resolution"):
        in_batches(device, 3, 2)
    assert device.tried == [2, 1]


def test_other_errors_pass_unchanged():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        in_batches(Limited(0, RuntimeError("mat1 and mat2 shapes")), 3, 2)
    assert not is_out_of_memory(ValueError("out of memory"))


def test_metal_gets_small_batches():
    # It aborts the process where CUDA raises an error.
    assert unet_batch(tiny_unet(), 64, 20, torch.device("mps")) <= 2


def test_a_run_needs_its_members_or_the_decoder():
    unet, vae = tiny_unet(), tiny_vae()
    one = run_activations(unet, vae, 1000, 1)
    assert one >= unet_activations(unet, 1000)
    assert one > 8 * 64 * 1000 * 4  # the decoder at 64 picture pixels per latent pixel, float32
    assert run_activations(unet, vae, 1000, 100) == 100 * unet_activations(unet, 1000)
    assert run_activations(unet.half(), vae.half(), 1000, 1) == one / 2


def test_batches_are_even_and_shrink_with_the_picture(monkeypatch):
    unet = tiny_unet()
    assert unet_batch(unet, 64, 1, CPU) == 1
    assert unet_batch(unet, 64, 10, CPU) == 10  # as an expert would: the weights are read once
    assert unet_batch(unet, 64, 20, CPU) == 10  # 16 at most on the CPU
    sizes = [unet_batch(unet, side * side, 64, CPU) for side in (8, 96, 1000, 100_000)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    # Half the precision, twice the members.
    monkeypatch.setattr("marigold_core.memory.LARGEST_BATCH", {})
    assert unet_batch(unet.half(), 10**5, 256, CPU) > unet_batch(unet.float(), 10**5, 256, CPU)
