#!/bin/sh
# Background: enable starts a background process that keeps the output of enable
# open, as some handlers do, and that reports success when it is done.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Background
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
log "$1 seq=$seq"
# stop ends all workers that were ever started: enable may have been killed, or
# called again, before the last one was done. After a reboot, a process id may
# belong to another process.
stop() {
	[ -f workers ] || return 0
	while read -r worker; do
		grep -q handler.sh "/proc/$worker/cmdline" 2>/dev/null && kill "$worker"
	done <workers
	rm -f workers
}
case "$1" in
enable)
	stop
	report transitioning 0 "started"
	nohup sh "$0" work &
	echo "started $!"
	;;
work)
	trap '' HUP
	echo "$$" >>workers
	sleep "${SAMPLE_DELAY:-3}"
	echo "still writing to the output of enable"
	report success 0 "done in the background"
	;;
disable | uninstall) stop ;;
esac
exit 0
