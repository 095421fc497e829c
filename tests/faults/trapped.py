"""`matchgraph` with a trap set, in words of the form MODULE:NAME:CALL:WHAT; ` and ` joins several.

At its CALL-th call by the main thread, from 1, the function NAME of MODULE springs the trap; WHAT happens:
kill      the process kills itself before the call, as the kernel or a power cut would
killed    the process kills itself after it
stop      the process is stopped before the call, until somebody continues it
nan       the call's result, a tensor, becomes NaN
jump=S    the call's result, and that of all later ones, is S more
raise     OSError: no space left on device
lack      torch.OutOfMemoryError, as a GPU raises it
lacks     the same, from that call on
count=FILE  this call and all later ones are counted: each adds a byte to the file
run=FILE  the shell script FILE runs before the call
then=TRAP the next trap is set, which counts from here
"""

from __future__ import annotations

import errno
import faulthandler
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from matchgraph.graphdb.connection import HOME_VARIABLE

HANGS_AFTER_S = 500


def spring(what: str, call: Callable[[], Any]) -> Any:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what in ("lack", "lacks"):
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    elif what == "raise":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif what.startswith("run="):
        subprocess.run(["sh", what.removeprefix("run=")], check=True)
    elif what.startswith("then="):
        set_trap(what.removeprefix("then="))
    result = call()
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return result * float("nan") if what == "nan" else result


def set_trap(trap: str) -> None:
    module, name, call, what = trap.split(":", 3)
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    plain = getattr(owner, last)
    calls = 0

    @wraps(plain)
    def trapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        # The heartbeat has a thread of its own, whose calls come when they come.
        calls += threading.current_thread() is threading.main_thread()
        if calls >= int(call) and what.startswith("jump="):
            return plain(*args, **kwargs) + float(what.removeprefix("jump="))
        here = threading.current_thread() is threading.main_thread()
        if calls >= int(call) and here and what.startswith("count="):
            with open(what.removeprefix("count="), "ab") as file:
                file.write(b".")
            return plain(*args, **kwargs)
        if here and (calls == int(call) or (calls > int(call) and what == "lacks")):
            return spring(what, lambda: plain(*args, **kwargs))
        return plain(*args, **kwargs)

    setattr(owner, last, trapped)


def matchgraph(arguments: Sequence[str], trap: str | None, home: str, probe: str, said: str) -> None:
    """Be `matchgraph` with these arguments; what it says, on both streams, goes to the file `said`."""
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    # Of a command that hangs, the test then shows where.
    faulthandler.dump_traceback_later(HANGS_AFTER_S)
    os.environ |= {HOME_VARIABLE: home, "MATCHGRAPH_PROBE": probe}
    sys.argv[1:] = arguments
    for one in trap.split(" and ") if trap else ():
        set_trap(one)
    import torch

    from matchgraph.cli.main import main

    # Tiny tensors gain nothing from threads, and equal bytes need an equal number of them.
    torch.set_num_threads(1)
    main()
