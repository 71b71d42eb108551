#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_readme.py BUILD_FOLDER: the program in README.md compiles without warnings against an installed copy and runs."""
import os
import re
import subprocess
import sys
import tempfile

import tree


def failed(command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.stdout.strip():
        print("  " + done.stdout.strip().replace("\n", "\n  "))
    return ["%s: exit status %d" % (" ".join(command), done.returncode)] if done.returncode else []


def main():
    build = os.path.abspath(sys.argv[1])
    program = re.search(r"```c\n(#include.*?)```", tree.read("README.md"), re.S).group(1)
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, DESTDIR=folder)
        subprocess.run(["meson", "install", "-C", build, "--quiet"], env=environment, check=True,
                       stdout=subprocess.DEVNULL)
        installed = {}
        for path, _, names in os.walk(folder):
            installed.update((name, path) for name in names)
        module = next((path for name, path in installed.items() if name.startswith("mmebm-cpu-")), None)
        source, binary = os.path.join(folder, "readme.c"), os.path.join(folder, "readme")
        with open(source, "w", encoding="utf-8") as stream:
            stream.write(program)
        tree.report("readme_program_compiles", failed(
            ["gcc", "-std=c11", "-O1", "-Wall", "-Wextra", "-pedantic", "-Werror", source, "-o", binary,
             "-I" + installed["mmebm.h"], "-L" + installed["libmmebm.so"], "-lmmebm", "-lm"]))
        run_with = dict(os.environ, LD_LIBRARY_PATH=installed["libmmebm.so"])
        if module:
            run_with["MMEBM_BACKEND_DIR"] = module
        if os.path.exists(binary):
            tree.report("readme_program_runs", failed([binary], env=run_with, timeout=300))
    tree.finish()


if __name__ == "__main__":
    main()
