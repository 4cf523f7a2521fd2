"""Runs the stages of cloud-init one after the other, each in a process of its
own as its unit does, without loading Python's modules again for each."""

import os
import sys

from cloudinit.cmd import main

failed = 0
for args in ["init --local", "init", "modules --mode=config", "modules --mode=final"]:
    pid = os.fork()
    if pid == 0:
        sys.argv = ["cloud-init"] + args.split()
        sys.exit(main.main())
    failed += os.waitpid(pid, 0)[1] != 0
sys.exit(failed)
