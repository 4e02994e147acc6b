"""Double of ``isaacgym.gymtorch``: the tensors of the double are PyTorch's already."""

from isaacgym.gymapi import Tensor


def wrap_tensor(tensor):
    return tensor.torch


def unwrap_tensor(tensor):
    assert tensor.is_contiguous()
    return Tensor(tensor)
