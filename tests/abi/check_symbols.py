#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Three equal sets: functions declared in the header, listed in lib/mmebm.map, exported by the built library.

    check_symbols.py HEADER MAP LIBRARY [MODULE ...]

Each backend module must export exactly one symbol, mmebm_backend_entry. Of the static library (LIBRARY with .a in
place of .so, if it is there) every global symbol must start with mmebm_, so that it collides with nobody's.
"""
import os
import re
import subprocess
import sys

import public_header


def report(name, problems):
    for problem in problems:
        print("  " + problem)
    print("%s %s" % ("FAIL" if problems else "PASS", name))
    return not problems


def map_functions(path):
    text = public_header.read(path)
    body = re.search(r"global:(.*?)local:", text, re.S).group(1)
    return re.findall(r"([^\s;]+);", body)


def global_symbols(path, *options):
    listed = subprocess.run(["nm", "--defined-only", "--format=posix", *options, path], check=True,
                            stdout=subprocess.PIPE, text=True).stdout
    fields = [line.split() for line in listed.splitlines() if not line.endswith(":")]
    return {field[0].split("@")[0] for field in fields if len(field) > 1 and field[1].isupper() and field[1] != "A"}


def differences(first_name, first, second_name, second):
    return (["%s: in %s, not in %s" % (name, first_name, second_name) for name in sorted(set(first) - set(second))] +
            ["%s: in %s, not in %s" % (name, second_name, first_name) for name in sorted(set(second) - set(first))])


def main():
    header, version_map, library, *modules = sys.argv[1:]
    declared = public_header.functions(header)
    listed = map_functions(version_map)
    exported = global_symbols(library, "--dynamic")
    good = report("header_equals_map", differences("the header", declared, "the map", listed) +
                  (["the map lists a name twice"] if len(listed) != len(set(listed)) else []))
    good &= report("map_equals_library", differences("the map", listed, "the library", exported))
    archive = re.sub(r"\.so[.\d]*$", ".a", library)
    if os.path.exists(archive):
        strangers = [name for name in global_symbols(archive, "--extern-only")
                     if not name.startswith(("mmebm_", "__odr_asan."))]
        good &= report("archive_has_only_our_names", ["%s: global in it" % name for name in sorted(strangers)])
    for module in modules:
        found = global_symbols(module, "--dynamic")
        good &= report("%s_exports_one_symbol" % os.path.basename(module),
                       differences("the rule", {"mmebm_backend_entry"}, "the module", found))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
