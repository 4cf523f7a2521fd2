#!/bin/sh
# Noisy: writes publicSettings.kilobytes (default 1024) to both streams,
# some of it not text, and a status of the same size.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Noisy
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
[ "$1" = enable ] || exit 0
kilobytes=$(public kilobytes)
n=0
while [ "$n" -lt "${kilobytes:-1024}" ]; do
	head -c 1024 /dev/zero | tr '\0' x
	head -c 1024 /dev/zero | tr '\0' y >&2
	n=$((n + 1))
done
printf '\377\376 not utf-8 \000\n'
report success 0 "$(head -c 200000 /dev/zero | tr '\0' z)"
exit 0
