"""Inside the sandbox this runs first: it hands the output folder out, sets the last limits, and runs the submission.

The text of this file is given to `python -c`. It has the owner's trust, since it runs before the submission does. The
folders go out as open descriptors: their memory file systems live on after every process in the sandbox has ended,
so outputs are collected when nobody is left to change them.
"""

import os
import resource
import runpy
import socket
import sys

control, entry, processes, memory, files, cpu_s, n_open = int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
with socket.socket(fileno=control) as channel:
    folders = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in ("/outputs", "/tmp")]  # noqa: S108 - its own
    socket.send_fds(channel, [b"f"], folders)
    for folder in folders:
        os.close(folder)
os.closerange(3, 1 << 16)  # nothing that the owner's process had open
for kind, limit in (
    (resource.RLIMIT_NPROC, processes),  # set here: the count is then of this user namespace only
    (resource.RLIMIT_AS, memory),
    (resource.RLIMIT_FSIZE, files),
    (resource.RLIMIT_CPU, cpu_s),
    (resource.RLIMIT_NOFILE, n_open),
    (resource.RLIMIT_CORE, 0),
):
    hard = resource.getrlimit(kind)[1]
    limit_here = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit_here, limit_here))
sys.argv = [entry]
sys.path.insert(0, "/code")
runpy.run_path(entry, run_name="__main__")
