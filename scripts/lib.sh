# Shared by the scripts beside it; sourced, never run. The caller has set -eu.
# shellcheck shell=sh

# repo is the root of the checkout, whatever directory the caller was in.
repo=$(cd "$(dirname "$0")/.." && pwd)
# cache survives a fresh clone: tools and disk images, nothing that belongs to one checkout.
cache=${AZGUEST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/azguest}

golangci_version=v2.15.0
gofumpt_version=v0.12.0
govulncheck_version=v1.9.0
nfpm_version=v2.45.2

# vm_packages is what building and booting the virtual machine runs.
vm_packages="qemu-system-x86 qemu-utils mmdebstrap genisoimage dnsmasq-base e2fsprogs openssh-client iproute2 util-linux"

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

# base is the release being worked on. Control planes and certification tests
# compare the agent's version, so it has four plain numbers, like the classic
# agent's, and is above the oldest that is still served (2.2.53.1).
base=3.0.0

# version prints what the binaries call themselves: the tag, if this is one,
# else the base with the number of commits.
version() {
	v=$(git -C "$repo" describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null) || v=
	[ -n "$v" ] || v=v$base.$(git -C "$repo" rev-list --count HEAD 2>/dev/null || echo 0)
	echo "${v#v}"
}

# need_packages installs the Debian packages that are missing, without their
# recommendations and without starting any service they bring.
need_packages() (
	missing=
	for p in "$@"; do
		case $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) in
		installed) ;;
		*) missing="$missing $p" ;;
		esac
	done
	[ -n "$missing" ] || exit 0
	command -v apt-get >/dev/null || die "install these first:$missing"
	[ "$(id -u)" = 0 ] || die "not root, and these packages are missing:$missing"
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
	# A list that was never fetched, or is too old to install from, is fetched
	# once; a third-party source that fails must not stop us.
	if ! install && { apt-get -qq update >>"$log" 2>&1 || true; } && ! install; then
		tail -n 30 "$log" >&2
		die "apt-get could not install:$missing"
	fi
	# Tests want its programs, nobody asked for a server on this machine.
	case " $missing " in
	*" openssh-server "*) systemctl --quiet disable ssh.service ssh.socket >/dev/null 2>&1 || true ;;
	esac
)

# go_tool NAME MODULE/PATH VERSION prints the path of a Go program built once
# per version. They stay out of go.mod: together they need a thousand modules.
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
