#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Takes the part of MNIST that examples/data ships: of each digit every k-th image, in the order of the full files.

usage: take_part.py FOLDER_OF_THE_FOUR_MNIST_FILES OUT_FOLDER
Writes 10 000 training and 2 000 test images with labels as IDX gz, digits in their natural proportion.
"""
import gzip
import os
import struct
import sys

import numpy as np

PARTS = (("train", 10000), ("t10k", 2000))


def read(path, magic):
    with gzip.open(path) as f:
        data = f.read()
    if struct.unpack(">I", data[:4])[0] != magic:
        sys.exit(f"{path}: not an IDX file of kind {magic}")
    return np.frombuffer(data, np.uint8, offset=16 if magic == 2051 else 8)


def shares(counts, wanted):
    """Natural proportion by largest remainders: integers that sum to wanted."""
    exact = counts * (wanted / counts.sum())
    take = np.floor(exact).astype(int)
    take[np.argsort(take - exact, kind="stable")[: wanted - take.sum()]] += 1
    return take


def write(path, header, data):
    with open(path, "wb") as f:  # no name and no time in the gzip header: the same bytes each time
        with gzip.GzipFile(filename="", fileobj=f, mode="wb", compresslevel=9, mtime=0) as z:
            z.write(header + data.tobytes())


def main():
    source, target = sys.argv[1:3]
    for name, wanted in PARTS:
        labels = read(os.path.join(source, f"{name}-labels-idx1-ubyte.gz"), 2049)
        images = read(os.path.join(source, f"{name}-images-idx3-ubyte.gz"), 2051).reshape(-1, 28, 28)
        chosen = []
        for digit, take in enumerate(shares(np.bincount(labels, minlength=10), wanted)):
            of_digit = np.flatnonzero(labels == digit)
            chosen.append(of_digit[np.arange(take) * len(of_digit) // take])
        chosen = np.sort(np.concatenate(chosen))
        write(os.path.join(target, f"{name}-images-idx3-ubyte.gz"),
              struct.pack(">IIII", 2051, len(chosen), 28, 28), images[chosen])
        write(os.path.join(target, f"{name}-labels-idx1-ubyte.gz"),
              struct.pack(">II", 2049, len(chosen)), labels[chosen])
        print(name, len(chosen), np.bincount(labels[chosen]))


main()
