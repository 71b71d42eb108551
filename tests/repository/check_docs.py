#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the documentation must hold, compared with the sources. Called by tests/run.sh."""
import os
import re

import tree

PAGES = ["architecture", "errors", "threading", "repeatability", "backends", "abi-policy", "training", "file-format"]


def missing_pages():
    return ["docs/%s.md" % page for page in PAGES if not os.path.exists(os.path.join(tree.ROOT, "docs", page + ".md"))]


def undocumented(names, page):
    text = tree.read(page)
    return ["%s is not in %s" % (name, page) for name in names if "`%s`" % name not in text]


def statuses():
    """(name, number) of each line of MMEBM_STATUS_LIST."""
    listed = tree.read("include/mmebm.h").split("#define MMEBM_STATUS_LIST(X)")[1].split("typedef enum")[0]
    return re.findall(r"X\((\w+), (-?\d+),", listed)


def wrong_statuses():
    text = tree.read("docs/errors.md")
    for name, number in statuses():
        if not re.search(r"\| `MMEBM_%s` \| %s \|" % (name, number), text):
            yield "MMEBM_%s (%s) has no row in docs/errors.md" % (name, number)


def diagnostics():
    listed = tree.read("lib/trainer.h").split("#define MMEBM_DIAGNOSTIC_LIST(X)")[1].split("enum {")[0]
    return re.findall(r'X\(\w+, "(\w+)"\)', listed)


def trainer_options():
    body = re.search(r"typedef struct mmebm_trainer_options \{(.*?)\n\}", tree.read("include/mmebm.h"), re.S).group(1)
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.S)
    names = [name.strip() for line in re.findall(r"^\s*\w+ ([^;]+);", body, re.M) for name in line.split(",")]
    return [name for name in names if not re.fullmatch(r"struct_size|reserved\d*", name)]


def broken_links():
    for path in tree.files(".md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", tree.read(path)):
            if not re.match(r"\w+:", target):
                where = os.path.join(tree.ROOT, os.path.dirname(path), target)
                if not os.path.exists(where):
                    yield "%s: %s" % (path, target)


def absent_functions():
    """mmebm_ names in the documents that no header or source knows."""
    known = "".join(tree.read(path) for path in tree.files(".h", ".c", ".map"))
    for path in tree.files(".md"):
        for name in sorted(set(re.findall(r"`(mmebm_\w+)(?:\(\))?`", tree.read(path)))):
            if not re.search(r"\b%s\b" % name, known):
                yield "%s: %s" % (path, name)


def main():
    missing = missing_pages()
    tree.report("every_page_exists", missing)
    if "docs/errors.md" not in missing:
        tree.report("every_status_is_documented", list(wrong_statuses()))
    if "docs/training.md" not in missing:
        tree.report("every_diagnostic_is_documented", undocumented(diagnostics(), "docs/training.md"))
        tree.report("every_trainer_option_is_documented", undocumented(trainer_options(), "docs/training.md"))
    tree.report("links_lead_somewhere", list(broken_links()))
    tree.report("documents_name_what_exists", list(absent_functions()))
    tree.finish()


if __name__ == "__main__":
    main()
