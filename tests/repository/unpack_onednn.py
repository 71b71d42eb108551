#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Unpacks the two oneDNN wheels of a folder into FOLDER/include and FOLDER/lib, as a compiler wants them."""
import glob
import os
import shutil
import sys
import zipfile


def main():
    folder = sys.argv[1]
    for part in ("include", "lib"):
        os.makedirs(os.path.join(folder, part), exist_ok=True)
    for wheel in glob.glob(os.path.join(folder, "*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if "/include/" in name and not name.endswith("/"):
                    target = os.path.join(folder, "include", name.split("/include/", 1)[1])
                elif "/lib/libdnnl.so" in name:
                    target = os.path.join(folder, "lib", os.path.basename(name))
                else:
                    continue
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with archive.open(name) as source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    for wanted in ("include/oneapi/dnnl/dnnl.h", "lib/libdnnl.so", "lib/libdnnl.so.3"):
        if not os.path.exists(os.path.join(folder, wanted)):
            sys.exit("the wheels hold no " + wanted)


if __name__ == "__main__":
    main()
