#!/bin/sh
. ./seen.sh
seen vma noop
exit 0
