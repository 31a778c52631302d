from __future__ import annotations

import torch

interrupted = False
loaded = []  # the patchers of each load_models_gpu, newest last
reserved = []  # the memory_required of each


class InterruptProcessingException(Exception):
    pass


def get_torch_device():
    return torch.device("cpu")


def unet_offload_device():
    return torch.device("cpu")


def intermediate_device():
    return torch.device("cpu")


def should_use_fp16(
    device=None, model_params=0, prioritize_performance=True, manual_cast=False
):  # fmt: skip
    return False


def should_use_bf16(
    device=None, model_params=0, prioritize_performance=True, manual_cast=False
):  # fmt: skip
    return False


def load_models_gpu(
    models,
    memory_required=0,
    force_patch_weights=False,
    minimum_memory_required=None,
    force_full_load=False,
):
    for patcher in models:
        patcher.model.to(patcher.load_device)
    loaded.append(models)
    reserved.append(memory_required)


def interrupt_current_processing(value=True):
    global interrupted
    interrupted = value


def throw_exception_if_processing_interrupted():
    if interrupted:
        interrupt_current_processing(False)
        raise InterruptProcessingException()
