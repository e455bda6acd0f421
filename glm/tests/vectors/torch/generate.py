"""Writes the files of this folder with torch itself (made with torch 2.8.0):

    pip install torch numpy && python generate.py

Values are small integers, so that every type holds them exactly; `torch.rs` knows them.
"""

import argparse
import pathlib
from collections import OrderedDict

import torch


def count(*shape):
    """0, 1, 2, … in row-major order."""
    n = 1
    for d in shape:
        n *= d
    return torch.arange(n, dtype=torch.float32).reshape(shape)


# A module's own state dict: an OrderedDict with an attribute, shared storages, views of all kinds.
module = torch.nn.Linear(3, 2)
with torch.no_grad():
    module.weight.copy_(count(2, 3))
    module.bias.copy_(torch.tensor([-1.0, 1.0]))
state = module.state_dict()
state["tied"] = state["weight"]
state["transposed"] = count(2, 3).t()
state["slice"] = count(4, 5)[1:3, 1:4]
state["column"] = count(4, 5)[:, 2]
state["permuted"] = count(2, 3, 4).permute(2, 0, 1)
state["parameter"] = torch.nn.Parameter(count(2), requires_grad=False)
state["scalar"] = torch.tensor(7.0)
state["empty"] = torch.zeros(0, 3)
for name, dtype in [
    ("f16", torch.float16),
    ("bf16", torch.bfloat16),
    ("i8", torch.int8),
    ("u8", torch.uint8),
    ("i32", torch.int32),
    ("i64", torch.int64),
    ("f64", torch.float64),
    ("bool", torch.bool),
    ("u16", torch.uint16),
    ("f8", torch.float8_e4m3fn),
]:
    state[name] = count(2).to(dtype)
torch.save(state, "views.pt")

# What DeepSpeed and Megatron leave beside the weights; nested names as in CodeGeeX.
side = {
    "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a/b"), dtype=torch.float16),
    "iteration": 49300,
    "random_rng_state": (3, (2**63, 2**31), None),
    "torch_rng_state": torch.zeros(4, dtype=torch.uint8),
    "optimizer": None,
    "device": torch.device("cpu"),
}
inner = {"language_model": {"embedding": OrderedDict(weight=count(2, 2).half())}}
for protocol in (2, 4):
    torch.save({"module": inner, **side}, f"nested-{protocol}.pt", pickle_protocol=protocol)

torch.save(state["bias"], "tensor.pt")
torch.save(OrderedDict(w=count(1)), "legacy.pt", _use_new_zipfile_serialization=False)
torch.save(module, "module.pt")
torch.save({"w": count(1), "hook": print}, "forbidden.pt")
torch.save({"w": count(1, 1).expand(3, 4)}, "expanded.pt")
