#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# check_globals.sh ARCHIVE: none of its objects has a variable in .data or .bss. Constant tables with addresses in them
# lie in .data.rel.ro and are fine.
found=$(objdump -t "$1" | grep -E ' O (\.data|\.bss|\*COM\*)[[:space:]]')
[ -z "$found" ] && exit 0
echo "writable variables:"
echo "$found"
exit 1
