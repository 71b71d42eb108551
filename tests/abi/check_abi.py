#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The ABI gate, and a test of the gate.

    check_abi.py HEADER            compare with the stored dump, then with planted breaks
    check_abi.py HEADER --write    write the stored dump (update_dump.sh)

The header is compiled into a library of empty functions with debug information, whose dump (abidw) abidiff compares
with tests/abi/libmmebm.abi: any difference but an added function fails. check_symbols.py and the compiler tie the real
library to the header, so this needs no debug build. What abidiff cannot see, constants of nameless enums, frozen_abi.c
pins. The gate itself is tested with breaks planted in copies of the header: each must be refused.
Without abidiff or without a stored dump the comparison is skipped; with CI set in the environment that is a failure.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

import public_header

HERE = os.path.dirname(os.path.abspath(__file__))
STORED = os.path.join(HERE, "libmmebm.abi")
FROZEN = os.path.join(HERE, "frozen_abi.c")
COMPILER = os.environ.get("CC", "cc").split()

# name, text that is in the header, text that takes its place
BREAKS = [
    ("removed_function", "MMEBM_API const char *mmebm_version(void);", ""),
    ("retyped_argument", "mmebm_network_node_shape(const mmebm_network *network, mmebm_node node,",
     "mmebm_network_node_shape(const mmebm_network *network, int64_t node,"),
    ("retyped_result", "MMEBM_API uint32_t mmebm_model_latent_size(", "MMEBM_API uint64_t mmebm_model_latent_size("),
    ("removed_member", "    uint32_t n_steps;          /*", "    /*"),
    ("retyped_member", "    float step_size;           /*", "    int32_t step_size;         /*"),
    ("reordered_members", "    float step_size;           /* l; x: 0.1, z: 0.1 */\n    float noise_scale;",
     "    float noise_scale;\n    float step_size;"),
    ("grown_struct", "    uint32_t capacity;", "    uint64_t added;\n    uint32_t capacity;"),
    ("renumbered_status", "X(E_SHAPE, -2,", "X(E_SHAPE, -20,"),
    ("renumbered_constant", "MMEBM_LAPLACE = 2", "MMEBM_LAPLACE = 4"),
]


class Gate:
    def __init__(self, folder):
        self.folder = folder

    def dump(self, header, name):
        """Path of the dump of a library made from `header`, or None if that does not compile."""
        folder = os.path.join(self.folder, name)
        os.makedirs(folder)
        shutil.copy(header, os.path.join(folder, "mmebm.h"))
        with open(os.path.join(folder, "stub.c"), "w", encoding="utf-8") as file:
            file.write(public_header.stub_library(header))
        # no path and no line number gets into the dump: it changes with the interface only
        if subprocess.run([*COMPILER, "-std=gnu11", "-g", "-shared", "-fPIC", "-w", "-Wl,-soname,libmmebm.so", "-o",
                           "libmmebm.so", "stub.c"], cwd=folder).returncode:
            return None
        subprocess.run(["abidw", "--no-corpus-path", "--no-comp-dir-path", "--no-show-locs", "--out-file",
                        "libmmebm.abi", "libmmebm.so"], cwd=folder, check=True)
        return os.path.join(folder, "libmmebm.abi")

    def frozen_holds(self, header, name):
        folder = os.path.join(self.folder, name + "-frozen")
        os.makedirs(folder)
        shutil.copy(header, os.path.join(folder, "mmebm.h"))
        return subprocess.run([*COMPILER, "-std=gnu11", "-fsyntax-only", "-I", folder, "-I", os.path.dirname(HERE),
                               FROZEN], stderr=subprocess.DEVNULL).returncode == 0


def differences(old, new):
    """abidiff's report, empty if there is none. Added functions are no break."""
    found = subprocess.run(["abidiff", "--no-added-syms", old, new], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True)
    return found.stdout if found.returncode else ""


def report(name, problem):
    if problem:
        print("  " + problem.replace("\n", "\n  ").rstrip())
    print("%s %s" % ("FAIL" if problem else "PASS", name))
    return not problem


def skip(name, why):
    if os.environ.get("CI"):
        return report(name, why)
    print("SKIP %s: %s" % (name, why))
    return True


def check_completeness(header):
    with open(FROZEN, encoding="utf-8") as file:
        pinned = set(re.findall(r"^CONSTANT\((\w+),", file.read(), re.M))
    missing = [name for name in public_header.constants(header) if name not in pinned]
    return report("every_constant_is_frozen", "not in frozen_abi.c: " + ", ".join(missing) if missing else "")


def check_planted(gate, header, base):
    """A break counts as refused only where the header itself passes."""
    with open(header, encoding="utf-8") as file:
        text = file.read()
    good = report("frozen_layout_accepts_this_header", "" if gate.frozen_holds(header, "base") else "it does not")
    for name, old, new in BREAKS:
        if text.count(old) != 1:
            good &= report("planted_" + name, "the header has not once: " + old)
            continue
        broken = os.path.join(gate.folder, name + ".h")
        with open(broken, "w", encoding="utf-8") as file:
            file.write(text.replace(old, new))
        refused = not gate.frozen_holds(broken, name)
        if not refused and base:
            dump = gate.dump(broken, name)
            refused = dump is not None and differences(base, dump) != ""
        if refused or base:
            good &= report("planted_" + name, "" if refused else "the gate let it pass")
        else:
            good &= skip("planted_" + name, "abidiff is not installed")
    if base:
        added = os.path.join(gate.folder, "added.h")
        with open(added, "w", encoding="utf-8") as file:
            end = "#ifdef __cplusplus\n}"
            file.write(text.replace(end, "MMEBM_API int mmebm_added(int number);\n" + end))
        good &= report("added_function_is_no_break", differences(base, gate.dump(added, "added")))
    return good


def main():
    header, write = sys.argv[1], "--write" in sys.argv[2:]
    have_tools = shutil.which("abidw") and shutil.which("abidiff")
    if write and not have_tools:
        print("abidw and abidiff are needed: Debian package abigail-tools")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(folder)
        base = gate.dump(header, "base") if have_tools else None
        if write:
            shutil.copy(base, STORED)
            return 0
        good = check_completeness(header)
        if not have_tools:
            good &= skip("interface_is_that_of_the_stored_dump", "abidiff is not installed")
        elif not os.path.exists(STORED):
            good &= skip("interface_is_that_of_the_stored_dump", "no dump is stored; tests/abi/update_dump.sh makes it")
        else:
            good &= report("interface_is_that_of_the_stored_dump", differences(STORED, base))
        good &= check_planted(gate, header, base)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
