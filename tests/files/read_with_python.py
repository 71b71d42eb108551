#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Witness of docs/file-format.md, from its text alone and with Python's standard library alone: what write_samples
wrote is what a reader in another language finds, and what that one writes loads again.

    read_with_python.py WRITE_SAMPLES
"""
import gzip
import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib

SIZES = {"F32": 4, "BF16": 2, "U8": 1}
SAMPLES = ["model", "half", "compressed", "network", "checkpoint"]


def metadata_sum(metadata):
    return sum(zlib.crc32(key.encode() + b"\0" + value.encode() + b"\0")
               for key, value in metadata.items() if key != "mmebm.crc32") & 0xffffffff


def refuse_doubles(pairs):
    assert len(dict(pairs)) == len(pairs), "a key is there twice"
    return dict(pairs)


def read(path):
    """Returns (metadata, {name: (dtype, shape, bytes)}) and checks every rule of the format."""
    with open(path, "rb") as stream:
        data = stream.read()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    length, = struct.unpack("<Q", data[:8])
    text, body = data[8:8 + length], data[8 + length:]
    assert length % 8 == 0 and text[:1] == b"{", "the header starts and ends as it should"
    header = json.loads(text.decode("utf-8"), object_pairs_hook=refuse_doubles)
    metadata = header.pop("__metadata__")
    assert metadata["mmebm.format"] == "1" and metadata["mmebm.kind"] in ("network", "model", "trainer")
    assert metadata["mmebm.crc32"] == "%08x" % metadata_sum(metadata)
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        size = SIZES[entry["dtype"]]
        for axis in entry["shape"]:
            size *= axis
        assert begin == end and stop - begin == size, "no hole, no overlap: " + name
        assert begin % SIZES[entry["dtype"]] == 0, "aligned: " + name
        assert metadata["crc32." + name] == "%08x" % zlib.crc32(body[begin:stop]), "checksum: " + name
        tensors[name] = entry["dtype"], entry["shape"], body[begin:stop]
        end = stop
    assert end == len(body), "nothing follows"
    return metadata, tensors


def write(path, metadata, tensors):
    """As another program would: keys in another order, spaces, largest elements first."""
    metadata, header, body = dict(metadata), {}, b""
    for name, (dtype, shape, data) in sorted(tensors.items(), key=lambda item: -SIZES[item[1][0]]):
        header[name] = {"data_offsets": [len(body), len(body) + len(data)], "shape": shape, "dtype": dtype}
        metadata["crc32." + name] = "%08x" % zlib.crc32(data)
        body += data
    metadata["mmebm.crc32"] = "%08x" % metadata_sum(metadata)
    header["__metadata__"] = metadata
    text = json.dumps(header, indent=1).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text + body)


def floats(dtype, data):
    if dtype == "F32":
        return [value for value, in struct.iter_unpack("<f", data)]
    return [struct.unpack("<f", b"\0\0" + data[i:i + 2])[0] for i in range(0, len(data), 2)]


def bf16(value):
    """Nearest, ties to even."""
    bits, = struct.unpack("<I", struct.pack("<f", value))
    return struct.unpack("<f", struct.pack("<I", (bits + 0x7fff + (bits >> 16 & 1)) >> 16 << 16))[0]


def expected(folder, sample):
    with open(os.path.join(folder, sample + ".expected")) as stream:
        for line in stream:
            name, *values = line.split()
            yield name, [float.fromhex(value) for value in values]


def check_sample(folder, sample):
    metadata, tensors = read(os.path.join(folder, sample + ".safetensors"))
    for name, wanted in expected(folder, sample):
        dtype, _, data = tensors[name]
        assert dtype == ("BF16" if sample == "half" else "F32"), name
        assert floats(dtype, data) == ([bf16(value) for value in wanted] if dtype == "BF16" else wanted), name
    names = [name for name, _ in expected(folder, sample)]
    assert names == [name for name in tensors if not name.startswith("trainer.")], "all tensors, in order"
    for key in metadata:
        if key.startswith("mmebm.graph."):
            check_graph(json.loads(metadata[key], object_pairs_hook=refuse_doubles), tensors)
    if sample == "checkpoint":
        assert tensors["trainer.user_state"] == ("U8", [4], b"user")
        assert json.loads(metadata["mmebm.trainer.options"])["langevin_z"]["method"] == "mala"


def check_graph(graph, tensors):
    """Layers point back, and the tensors of named layers are there."""
    for number, layer in enumerate(graph["layers"]):
        assert all(0 <= source < number for source in layer["inputs"]), layer
        if "name" in layer:
            suffixes = ["gain", "shift", "mean", "variance"] if layer["kind"] == "batch_norm" else ["weight"]
            suffixes += ["bias"] if layer.get("bias") else []
            assert all(layer["name"] + "." + suffix in tensors for suffix in suffixes), layer
    assert all(0 <= output < len(graph["layers"]) for output in graph["outputs"])


def check_written(folder, program):
    """A tensor changed here arrives there."""
    metadata, tensors = read(os.path.join(folder, "model.safetensors"))
    name = sorted(tensors)[0]
    dtype, shape, data = tensors[name]
    values = [2 * value for value in floats(dtype, data)]
    tensors[name] = dtype, shape, struct.pack("<%df" % len(values), *values)
    path = os.path.join(folder, "changed.safetensors")
    write(path, metadata, tensors)
    shown = subprocess.run([program, "--show", path, name], stdout=subprocess.PIPE, check=True).stdout.decode().split()
    assert shown[0] == name and [float.fromhex(value) for value in shown[1:]] == values


def check_safetensors(folder, safetensors, numpy_reader):
    for sample in SAMPLES:
        path = os.path.join(folder, sample + ".safetensors")
        metadata, tensors = read(path)
        if sample == "compressed":
            continue
        with safetensors.safe_open(path, framework="np") as opened:
            assert opened.metadata() == metadata
            assert sorted(opened.keys()) == sorted(tensors)
        if sample == "half":
            continue  # numpy has no bf16
        for name, array in numpy_reader(path).items():
            dtype, shape, data = tensors[name]
            assert list(array.shape) == shape and array.tobytes() == data, name


def check_documented_example():
    """The file that docs/file-format.md shows byte for byte follows the rules of that page."""
    page = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "file-format.md")
    with open(page, encoding="utf-8") as stream:
        example = stream.read().split("## A file, byte for byte")[1].split("##")[0]
    header = "".join(line.strip() for line in example.splitlines() if line.startswith("    ")).encode()
    body = bytes.fromhex("0000003f 000000c0 0000803e")
    assert floats("F32", body) == [0.5, -2, 0.25]
    header += b" " * (-len(header) % 8)
    assert len(header) == 568 and 8 + len(header) + len(body) == 588
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "line.safetensors")
        with open(path, "wb") as stream:
            stream.write(struct.pack("<Q", len(header)) + header + body)
        metadata, tensors = read(path)
    assert list(tensors) == ["fc.weight", "fc.bias"]
    check_graph(json.loads(metadata["mmebm.graph.network"]), tensors)


def report(name, check, *arguments):
    try:
        check(*arguments)
    except (AssertionError, KeyError, ValueError, OSError, struct.error, subprocess.CalledProcessError) as error:
        print("  %s: %s" % (type(error).__name__, error))
        print("FAIL %s" % name)
        return False
    print("PASS %s" % name)
    return True


def main():
    program = os.path.abspath(sys.argv[1])
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, folder], check=True)
        for sample in SAMPLES:
            fine &= report("python_reads_%s" % sample, check_sample, folder, sample)
        fine &= report("python_writes_a_model", check_written, folder, program)
        fine &= report("documented_example_is_right", check_documented_example)
        try:
            import safetensors
            import safetensors.numpy
        except ImportError:
            print("SKIP safetensors_reads_all: the Python package safetensors is not installed")
        else:
            fine &= report("safetensors_reads_all", check_safetensors, folder, safetensors, safetensors.numpy.load_file)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
