"""Prints what user data can change on a machine, one fact per line.

Numbers of accounts that a program has chosen become "auto" or "system".
"""

import glob
import grp
import os
import pwd
import re
import stat
import subprocess


def number(n):
    return "auto" if 1000 <= n < 2000 else "system" if 100 <= n < 1000 else str(n)


def name_of(uid, gid):
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = number(uid)
    try:
        group = grp.getgrgid(gid).gr_name
    except KeyError:
        group = number(gid)
    return user + ":" + group


def lines(*patterns):
    """The lines of files that are no comments, with single blanks."""
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            if os.path.isfile(path):
                with open(path, errors="replace") as f:
                    for line in f:
                        line = " ".join(line.split())
                        if line and line[0] != "#":
                            yield line


def file(word, path, contents):
    s = os.lstat(path)
    print(word, path, stat.filemode(s.st_mode), name_of(s.st_uid, s.st_gid))
    if stat.S_ISLNK(s.st_mode):
        print(word, path, "->", os.readlink(path))
    elif contents and stat.S_ISREG(s.st_mode):
        with open(path, "rb") as f:
            print(word, path, "has", f.read(4096))


for g in grp.getgrall():
    print("group", g.gr_name, number(g.gr_gid))
    for member in g.gr_mem:
        print("member", g.gr_name, member)

for p in pwd.getpwall():
    group = name_of(p.pw_uid, p.pw_gid).split(":")[1]
    print("user", p.pw_name, number(p.pw_uid), group, repr(p.pw_gecos), p.pw_dir, p.pw_shell)
    if not re.match("/(home|srv)/|/root$", p.pw_dir):
        continue
    for name in ("", "/.profile", "/.ssh", "/.ssh/authorized_keys"):
        if os.path.lexists(p.pw_dir + name):
            file("home", p.pw_dir + name, False)
    for line in lines(p.pw_dir + "/.ssh/authorized_keys"):
        print("key", p.pw_name, line)

for line in lines("/etc/shadow"):
    f = line.split(":")
    kind = f[1].lstrip("!*")
    lock = "open" if kind == f[1] else "locked"
    if kind and "FIXED" not in kind:
        kind = "hash of kind " + kind.split("$")[1]
    print("shadow", f[0], lock, kind or "none", "min=%s max=%s warn=%s inactive=%s expire=%s" % tuple(f[3:8]))

for line in lines("/etc/sudoers.d/*"):
    print("sudo", line)
if subprocess.run(["visudo", "-cq"]).returncode:
    print("sudo is broken")

print("hostname", os.uname().nodename)
for line in lines("/etc/hostname"):
    print("hostname file", line)
for line in lines("/etc/hosts"):
    print("hosts", line.split("#")[0].rstrip())
print("zone", os.path.realpath("/etc/localtime"))
for line in lines("/etc/timezone"):
    print("zone file", line)
for line in lines("/etc/chrony/chrony.conf", "/etc/chrony/conf.d/*.conf", "/etc/chrony/sources.d/*.sources"):
    if line.split()[0] in ("server", "pool", "peer"):
        print("chrony", line)
for line in lines("/etc/systemd/timesyncd.conf", "/etc/systemd/timesyncd.conf.d/*.conf"):
    if re.match("(Fallback)?NTP=.", line):
        print("timesyncd", line)
for line in lines("/etc/fstab"):
    print("fstab", line)
for line in lines("/proc/self/mounts"):
    if line.split()[1].startswith("/srv"):
        print("mounted", line)
out = subprocess.run(["dpkg-query", "-W", "-f", "package ${Package} ${Version} ${Status}\n", "oracle-*"], capture_output=True, text=True)
print(out.stdout, end="")

for directory, names, files in os.walk("/srv"):
    for name in names + files:
        file("file", os.path.join(directory, name), not name.startswith("."))
