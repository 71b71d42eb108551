#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rules of CONTRIBUTING.md that a script can check. Called by tests/run.sh."""
import re

import tree

SOURCES = tree.files(".c", ".h", ".cpp", ".cu")
LIBRARY = [path for path in SOURCES if path.startswith(("lib/", "backends/"))]
LONGEST_FUNCTION = 150
LONGEST_LINE = 120
FORBIDDEN = re.compile(r"\b(abort|exit|_exit|printf|fprintf|vprintf|puts|putchar|perror|assert)\s*\(")
# Memory goes through the context's hooks; the default hooks themselves are the one exception.
ALLOCATORS = re.compile(r"\b(malloc|calloc|realloc|strdup|aligned_alloc|posix_memalign)\s*\(")
DEFAULT_HOOKS = "lib/context.c"


def code_only(text):
    """Blanks comments and strings, keeping line numbers."""
    pattern = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return pattern.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)


def matches(pattern, paths):
    for path in paths:
        for number, line in enumerate(code_only(tree.read(path)).splitlines(), 1):
            found = pattern.search(line)
            if found:
                yield "%s:%d: %s" % (path, number, found.group().strip())


def missing_licences():
    paths = SOURCES + tree.files(".py", ".sh", "meson.build", "meson_options.txt", ".ci/run")
    return [path for path in paths if "SPDX-License-Identifier: Apache-2.0" not in "\n".join(
        tree.read(path).splitlines()[:3])]


def long_functions():
    for path in SOURCES:
        start = None
        for number, line in enumerate(tree.read(path).splitlines(), 1):
            if line == "{":
                start = number
            elif line.startswith("}") and start:
                if number - start - 1 > LONGEST_FUNCTION:
                    yield "%s:%d: a function of %d lines" % (path, start, number - start - 1)
                start = None


def untidy_lines():
    for path in SOURCES + tree.files(".py", ".sh", "meson.build"):
        for number, line in enumerate(tree.read(path).splitlines(), 1):
            if len(line) > LONGEST_LINE:
                yield "%s:%d: %d columns" % (path, number, len(line))
            if line != line.rstrip() or (path in SOURCES and "\t" in line):
                yield "%s:%d: trailing space or tab" % (path, number)


def repeated_names():
    seen = {}
    for path in LIBRARY:
        name = path.rsplit("/", 1)[1]
        if name in seen:
            yield "%s and %s" % (seen[name], path)
        seen[name] = path


def included(path):
    return re.findall(r'^#include "(?:.*/)?([^"/]+)"', tree.read(path), re.M)


def crossed_boundary():
    """A backend knows three headers of the library, the library none of a backend's (docs/architecture.md)."""
    library = {path.rsplit("/", 1)[1] for path in LIBRARY if path.startswith("lib/") and path.endswith(".h")}
    backend = {path.rsplit("/", 1)[1] for path in LIBRARY if path.startswith("backends/") and path.endswith(".h")}
    for path in LIBRARY:
        forbidden = backend if path.startswith("lib/") else library - {"backend_api.h", "graph.h", "philox.h"}
        for name in included(path):
            if name in forbidden:
                yield "%s includes %s" % (path, name)


def circular_includes():
    headers = {path.rsplit("/", 1)[1]: included(path) for path in LIBRARY if path.endswith(".h")}

    def reaches(start, name, seen):
        return any(next_name == start or (next_name in headers and next_name not in seen and
                                          reaches(start, next_name, seen | {next_name})) for next_name in headers[name])

    return [name for name in headers if reaches(name, name, {name})]


def unfinished():
    mark = re.compile(r"\b(TODO|FIXME|XXX)\b")
    for path in SOURCES + tree.files(".md"):
        for number, line in enumerate(tree.read(path).splitlines(), 1):
            if mark.search(line):
                yield "%s:%d" % (path, number)


def main():
    tree.report("every_file_names_its_licence", missing_licences())
    tree.report("functions_are_short", list(long_functions()))
    tree.report("lines_are_tidy", list(untidy_lines()))
    tree.report("library_never_prints_or_aborts", list(matches(FORBIDDEN, LIBRARY)))
    tree.report("library_allocates_through_hooks",
                list(matches(ALLOCATORS, [path for path in LIBRARY if path != DEFAULT_HOOKS])))
    tree.report("backends_keep_to_the_boundary", list(crossed_boundary()))
    tree.report("includes_go_one_way", circular_includes())
    tree.report("file_names_are_unique", list(repeated_names()))
    tree.report("nothing_is_left_unfinished", list(unfinished()))
    tree.finish()


if __name__ == "__main__":
    main()
