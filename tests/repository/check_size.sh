#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# check_size.sh LIBRARY BYTES: stripped, the library is smaller than BYTES.
copy=$(mktemp) || exit 1
trap 'rm -f "$copy"' EXIT
strip -o "$copy" "$1" || exit 1
size=$(wc -c <"$copy")
echo "$size bytes stripped"
[ "$size" -lt "$2" ]
