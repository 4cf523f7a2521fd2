#!/bin/sh
# Background: enable starts a process that outlives it and keeps the output
# open, as careless handlers do, and reports success only from there.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Background
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
log "$1 seq=$seq"
case "$1" in
enable)
	report transitioning 0 "started"
	nohup sh "$0" work &
	echo "$!" >worker.pid
	echo "started $!"
	;;
work)
	trap '' HUP
	sleep "${SAMPLE_DELAY:-3}"
	echo "still writing to the output of enable"
	report success 0 "done in the background"
	;;
disable | uninstall)
	# After a reboot the number may be somebody else's.
	[ -f worker.pid ] && worker=$(cat worker.pid) && grep -q handler.sh "/proc/$worker/cmdline" 2>/dev/null && kill "$worker"
	;;
esac
exit 0
