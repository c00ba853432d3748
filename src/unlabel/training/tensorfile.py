"""Tensors as the bytes of a safetensors file, made while they are written.

The format (github.com/huggingface/safetensors): the header's length as 8 bytes, little-endian; a
JSON header padded to 8 bytes; the tensors without gaps, widest type first for alignment. The
library's own writer copies everything first, and leaves flushing and the disk's error out of reach.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unlabel.atomic import Content

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def tensor_file(tensors: Mapping[str, Tensor]) -> Content:
    """The safetensors file of ``tensors``; each is fetched from its device when it is written.

    Tensors that share memory are written under each of their names.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def chunks() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        for _, tensor in ordered:
            if tensor.numel():
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                yield flat.view(torch.uint8).numpy().data

    return Content(8 + len(text) + end, chunks())
