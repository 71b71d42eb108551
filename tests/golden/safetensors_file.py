# SPDX-License-Identifier: Apache-2.0
"""Reads and writes float32 safetensors files with nothing but the standard library and numpy."""
import json
import struct

import numpy


def write(path, arrays):
    """arrays: dict of name -> array, stored as little-endian float32 in the order given."""
    header, offset, blocks = {}, 0, []
    for name, array in arrays.items():
        block = numpy.ascontiguousarray(array, dtype="<f4").tobytes()
        end = offset + len(block)
        header[name] = {"dtype": "F32", "shape": list(numpy.shape(array)), "data_offsets": [offset, end]}
        offset = end
        blocks.append(block)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text + b"".join(blocks))


def read(path):
    with open(path, "rb") as stream:
        data = stream.read()
    length = struct.unpack("<Q", data[:8])[0]
    body = data[8 + length:]
    arrays = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            arrays[name] = numpy.frombuffer(body[begin:end], dtype="<f4").reshape(entry["shape"])
    return arrays
