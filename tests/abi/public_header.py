# SPDX-License-Identifier: Apache-2.0
"""What include/mmebm.h declares, for the ABI checks: functions with their prototypes, named constants."""
import re

FUNCTION = re.compile(r"MMEBM_API\s+(?:MMEBM_CHECKED\s+)?((?:[^;{}()]*?)\b(mmebm_\w+)\s*\([^;{}]*\))\s*;")
ENUM = re.compile(r"\benum(?:\s+\w+)?\s*\{(.*?)\}", re.S)
STATUS = re.compile(r"^\s*X\((\w+),", re.M)


def without_comments(text):
    return re.sub(r"/\*.*?\*/", "", text, flags=re.S)


def read(path):
    with open(path, encoding="utf-8") as file:
        return without_comments(file.read())


def functions(path):
    """name -> prototype, in order of declaration."""
    text = read(path)
    found = {match.group(2): " ".join(match.group(1).split()) for match in FUNCTION.finditer(text)}
    declared = len(re.findall(r"^MMEBM_API\b", text, re.M))
    if declared != len(found):
        raise SystemExit("%s: %d lines start with MMEBM_API, %d functions were read" % (path, declared, len(found)))
    return found


def constants(path):
    """Names of all public constants."""
    text = read(path)
    names = ["MMEBM_" + name for name in STATUS.findall(text)]
    for body in ENUM.findall(text):
        names += re.findall(r"\b(MMEBM_\w+)\s*=", re.sub(r"^#.*$", "", body, flags=re.M))
    return names


def stub_library(path):
    """C text that defines every declared function and does nothing: the header's types and symbols as a library."""
    lines = ['#include "mmebm.h"']
    for prototype in functions(path).values():
        lines.append("%s {%s}" % (prototype, "" if prototype.startswith("void ") and "*" not in prototype.split("(")[0]
                                  else " return 0; "))
    return "\n".join(lines) + "\n"
