#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the golden vectors again and compares them with the committed ones. Called by tests/run.sh."""
import os
import subprocess
import sys
import tempfile

FOLDER = os.path.dirname(os.path.abspath(__file__))
# float64 sums may be taken in another order by another PyTorch: the last bit of a float32 may then differ
ALLOWED = 1e-6


def compare(name, committed, made):
    import numpy
    import safetensors_file
    old = safetensors_file.read(os.path.join(committed, name))
    new = safetensors_file.read(os.path.join(made, name))
    failed = list(old) != list(new)
    if failed:
        print("  %s: other tensors than before" % name)
    for key in old:
        if key in new and (old[key].shape != new[key].shape or
                           numpy.abs(old[key] - new[key]).max() > ALLOWED * numpy.abs(old[key]).max()):
            print("  %s: %s differs" % (name, key))
            failed = True
    print("%s golden_%s" % ("FAIL" if failed else "PASS", name.split(".")[0]))
    return failed


def main():
    try:
        import numpy  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        print("SKIP golden_vectors: %s" % error)
        return 0
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([sys.executable, os.path.join(FOLDER, "make_golden.py"), made], check=True)
        results = [compare(name, FOLDER, made) for name in ("networks.safetensors", "training.safetensors")]
    return 1 if any(results) else 0


if __name__ == "__main__":
    sys.exit(main())
