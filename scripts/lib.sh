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
rpmpack=github.com/google/rpmpack@v0.7.1 # the one of nfpm_version

# vm_packages are the packages needed to build and boot the virtual machine.
vm_packages="qemu-system-x86 qemu-utils mmdebstrap genisoimage dnsmasq-base e2fsprogs openssh-client iproute2 util-linux"

die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

# base is the version of the next release (see agent/version).
base=$(sed -n 's/^const base = "\(.*\)"$/\1/p' "$repo/agent/version/version.go")

# from_git runs git on this checkout, and on no other: neither on a repository
# around it nor on the one that a hook has in its environment. Checkouts of other
# users are read, too, because containers often build them as root.
from_git() {
	env -u GIT_DIR -u GIT_WORK_TREE -u GIT_INDEX_FILE -u GIT_COMMON_DIR GIT_CEILING_DIRECTORIES="${repo%/*}" \
		git -c safe.directory="$repo" -c core.fsmonitor=false -C "$repo" "$@"
}

# find_version sets version, the version of the binaries: AZGUEST_VERSION, or the
# tag of this commit, if it has one, else base and the number of commits. If none
# of them is known for certain, version is empty, and why says the reason: a
# version from half a history would be a downgrade of the one before.
find_version() {
	version=${AZGUEST_VERSION-}
	why=
	if [ -z "$version" ]; then
		if ! command -v git >/dev/null; then
			why="git is not installed"
		elif [ ! -e "$repo/.git" ]; then
			why="this tree is not a git checkout"
		elif ! tags=$(from_git tag --points-at HEAD --list 'v[0-9]*' 2>&1); then
			why="git cannot read this checkout: $(echo "$tags" | head -n 1)"
		elif [ -n "$tags" ]; then
			# Several tags: the highest.
			version=$(echo "$tags" | sed 's/^v//' | sort -V | tail -n 1)
		elif [ "$(from_git rev-parse --is-shallow-repository)" != false ]; then
			why="this checkout is shallow, so its commits cannot be counted; run: git fetch --unshallow --tags"
		else
			version=$base.$(from_git rev-list --count HEAD)
		fi
	fi
	[ -n "$why" ] || echo "$version" | grep -Eqx '[0-9]+(\.[0-9]+){3}' ||
		die "version $version (from AZGUEST_VERSION or a tag) does not have four numbers, such as $base.523"
}

# commit prints the commit of this checkout, with "-modified" if files differ from
# it. It is empty if git does not know.
commit() {
	[ -e "$repo/.git" ] && id=$(from_git rev-parse --short=12 HEAD 2>/dev/null) || return 0
	[ -z "$(from_git status --porcelain --untracked-files=no 2>/dev/null)" ] || id=$id-modified
	echo "$id"
}

# release_version is find_version for what others install: it must be right.
release_version() {
	find_version
	[ -z "$why" ] || die "unknown version: $why; or set AZGUEST_VERSION, for example to $base.523"
}

# commit_time prints the time of the last commit, in seconds, or SOURCE_DATE_EPOCH.
commit_time() {
	echo "${SOURCE_DATE_EPOCH:-$(from_git log -1 --format=%ct 2>/dev/null || echo 0)}"
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

# go_tool NAME MODULE/PATH VERSION [MODULE FILE SED] prints the path of a Go program,
# which is built once per version. The tools are not in go.mod: they need a thousand
# modules. A sed command corrects one line in a file of a module.
go_tool() {
	bin=$cache/tools/$1-$3${4:+-corrected}
	if [ ! -x "$bin" ]; then
		mkdir -p "$cache/tools"
		tmp=$(mktemp -d "$cache/tools/.build.XXXXXX")
		echo "building $1 $3 (once)" >&2
		(
			unset GOFLAGS
			export GOBIN="$tmp" CGO_ENABLED=0
			cd "$tmp"
			if [ -n "${4-}" ]; then
				dir=$(go mod download -json "$4" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
				cp -r "$dir" corrected && chmod -R u+w corrected
				sed -i "$6" "corrected/$5"
				! cmp -s "$dir/$5" "corrected/$5" || die "nothing to correct in $4"
				go mod init tool && go mod edit -replace "${4%@*}=./corrected" &&
					go get "$2@$3" && go install "$2"
			else
				go install "$2@$3"
			fi
		) >&2 || {
			rm -rf "$tmp"
			die "could not build $1"
		}
		mv "$tmp/$1" "$bin"
		rm -rf "$tmp"
	fi
	echo "$bin"
}
