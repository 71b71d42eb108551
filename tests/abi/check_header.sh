#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# check_header.sh INCLUDE_FOLDER: the header alone, included twice, compiles as C11 and as C++11 without a warning, with
# gcc and with clang.
include=$1
failures=0

compile() { # NAME COMPILER STANDARD LANGUAGE
    if ! command -v "$2" >/dev/null; then
        echo "SKIP $1: $2 is not installed"
        return
    fi
    if printf '#include <mmebm.h>\n#include <mmebm.h>\nint main(void) { return mmebm_version() == 0; }\n' |
        "$2" "-std=$3" -Wall -Wextra -pedantic -Werror -fsyntax-only -I"$include" -x "$4" -; then
        echo "PASS $1"
    else
        echo "FAIL $1"
        failures=1
    fi
}

compile header_gcc_c11 gcc c11 c
compile header_gcc_cxx11 g++ c++11 c++
compile header_clang_c11 clang c11 c
compile header_clang_cxx11 clang++ c++11 c++
exit $failures
