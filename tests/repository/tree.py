# SPDX-License-Identifier: Apache-2.0
"""What the checks of this folder share: the files of the repository and one result line for each check."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIPPED_FOLDERS = {".git", ".peers", "__pycache__", "demo-out"}
failures = 0


def files(*endings, under=""):
    """Paths relative to the root, sorted; builds and outputs are left out."""
    found = []
    for folder, names, leaves in os.walk(os.path.join(ROOT, under)):
        names[:] = [n for n in names if n not in SKIPPED_FOLDERS and not n.startswith("build")]
        for leaf in leaves:
            if leaf.endswith(endings):
                found.append(os.path.relpath(os.path.join(folder, leaf), ROOT))
    return sorted(found)


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as stream:
        return stream.read()


def report(name, complaints):
    """PASS or FAIL name; each complaint on a line before it."""
    global failures
    for complaint in complaints:
        print("  " + complaint)
    print("%s %s" % ("FAIL" if complaints else "PASS", name), flush=True)
    failures += bool(complaints)


def finish():
    sys.exit(1 if failures else 0)
