# Functions shared by the scripts in this directory. Source it, do not run it. The
# caller has set -eu.
# shellcheck shell=sh

# repo is the root of the checkout, independent of the caller's directory.
repo=$(cd "$(dirname "$0")/.." && pwd)
# cache holds tools and disk images; all checkouts share it.
cache=${AZGUEST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/azguest}

golangci_version=v2.15.0
gofumpt_version=v0.12.0
govulncheck_version=v1.9.0
nfpm_version=v2.45.2

# vm_packages are the packages needed to build and boot the virtual machine.
vm_packages="qemu-system-x86 qemu-utils mmdebstrap genisoimage dnsmasq-base e2fsprogs openssh-client iproute2 util-linux"

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

# base is the version of the next release. Control planes and certification tests
# compare the agent's version, so it has four plain numbers, like the classic
# agent's, and is above the oldest version that is still supported (2.2.53.1).
base=3.0.0

# version prints the version of the binaries: the tag of this commit, if it has
# one, else base and the number of commits.
version() {
	v=$(git -C "$repo" describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null) || v=
	[ -n "$v" ] || v=v$base.$(git -C "$repo" rev-list --count HEAD 2>/dev/null || echo 0)
	echo "${v#v}"
}

# need_packages installs missing Debian packages, without recommended packages and
# without starting their services.
need_packages() (
	missing=
	for p in "$@"; do
		case $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) in
		installed) ;;
		*) missing="$missing $p" ;;
		esac
	done
	[ -n "$missing" ] || exit 0
	command -v apt-get >/dev/null || die "missing packages, and there is no apt-get; install them first:$missing"
	[ "$(id -u)" = 0 ] || die "must be root to install missing packages:$missing"
	echo "installing$missing" >&2
	log=$(mktemp)
	policy=
	trap 'rm -f "$log" $policy' EXIT
	trap 'exit 1' INT TERM HUP
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		policy=/usr/sbin/policy-rc.d
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	# shellcheck disable=SC2086 # a list of words
	install() {
		DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 \
			install -y --no-install-recommends $missing >>"$log" 2>&1 </dev/null
	}
	# If the install fails, the package lists may be missing or too old: update
	# them once, and ignore errors of third-party sources.
	if ! install && { apt-get -qq update >>"$log" 2>&1 || true; } && ! install; then
		tail -n 30 "$log" >&2
		die "apt-get install failed:$missing"
	fi
	# The tests need only its programs, not a running server.
	case " $missing " in
	*" openssh-server "*) systemctl --quiet disable ssh.service ssh.socket >/dev/null 2>&1 || true ;;
	esac
)

# go_tool NAME MODULE/PATH VERSION prints the path of a Go program, which is built
# once per version. The tools are not in go.mod: they need a thousand modules.
go_tool() {
	bin=$cache/tools/$1-$3
	if [ ! -x "$bin" ]; then
		mkdir -p "$cache/tools"
		tmp=$(mktemp -d "$cache/tools/.build.XXXXXX")
		echo "building $1 $3 (once)" >&2
		(cd / && GOFLAGS='' GOBIN=$tmp CGO_ENABLED=0 go install "$2@$3") >&2 || {
			rm -rf "$tmp"
			die "could not build $1"
		}
		mv "$tmp/$1" "$bin"
		rm -rf "$tmp"
	fi
	echo "$bin"
}
