#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Stores the present interface as the one that later versions are compared with (check_abi.py). To be run when
# functions or options were added, in the same change; never to make a break pass.
set -eu
cd "$(dirname "$0")"
PYTHONDONTWRITEBYTECODE=1 python3 check_abi.py ../../include/mmebm.h --write
