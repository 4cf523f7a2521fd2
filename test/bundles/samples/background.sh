#!/bin/sh
# Background: enable starts a process that outlives it and keeps the output
# open, as careless handlers do, and reports success only from there.
# shellcheck disable=SC2034,SC2154 # lib.sh uses HANDLER and sets the rest
HANDLER=Azguest.Samples.Background
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
log "$1 seq=$seq"
# stop ends the workers of all times: enable may have been killed, or called
# again, before the last one was done. After a reboot a number may be somebody
# else's.
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
