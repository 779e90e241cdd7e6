"""Runs a program and stops it, or makes a call of it fail, at a chosen stage.

usage: stages.py [--at=N] [--do=WHAT] [--under=DIR]... [--outside=DIR]...
                 [--sockets] [--log=FILE] [--held=FILE] -- PROGRAM [ARG]...

A stage is a system call with which the program changes something outside
itself: it creates, writes, syncs, renames, links or removes a file. With
--sockets, what it sends to a server and receives from one is one too. They are counted over all
threads, from 1; with --under only those on paths below one of the DIRs, with
--outside none of those.

WHAT happens at stage N, before the call does its work:

    kill int term    the program gets that signal; after the last two the call
                     goes on
    hold             the call waits until this program gets SIGUSR1; FILE of
                     --held comes to be when it has begun to wait
    ENOSPC EIO ...   the call fails with this error; with a + behind it
                     (ENOSPC+) so does every later stage, as on a disk that is
                     full

FILE of --log gets a line for each stage: its number, the call, the path. This
program ends as PROGRAM ends, by the same signal if it was one.

It needs Linux 5.19 and no privilege: the kernel asks it about each of these
calls (seccomp_unotify(2)), which sees every thread and every way of making the
call, and leaves the program as it was built.
"""

import ctypes
import errno
import os
import platform
import select
import signal
import socket
import struct
import sys

# By architecture: the number of each call. From the kernel's own tables; the
# second column is the generic one, which aarch64 uses.
CALLS = {
    "write": (1, 64), "pwrite64": (18, 68), "writev": (20, 66), "pwritev": (296, 70),
    "connect": (42, 203), "sendto": (44, 206), "recvfrom": (45, 207), "sendfile": (40, 71), "copy_file_range": (326, 285), "splice": (275, 76),
    "ftruncate": (77, 46), "fallocate": (285, 47), "fsync": (74, 82), "fdatasync": (75, 83),
    "sync_file_range": (277, 84), "syncfs": (306, 267), "openat": (257, 56), "openat2": (437, 437),
    "renameat": (264, 38), "renameat2": (316, 276), "linkat": (265, 37), "symlinkat": (266, 36),
    "unlinkat": (263, 35), "mkdirat": (258, 34), "mknodat": (259, 33), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchown": (93, 55), "fchownat": (260, 54), "utimensat": (280, 88),
    "open": (2, None), "creat": (85, None), "rename": (82, None), "link": (86, None),
    "symlink": (88, None), "unlink": (87, None), "mkdir": (83, None), "rmdir": (84, None),
    "chmod": (90, None), "chown": (92, None), "lchown": (94, None),
}
# Where the path is: the argument with the directory it is relative to, or None,
# and that with the text.
TWO_PATHS = {"renameat": (2, 3), "renameat2": (2, 3), "linkat": (2, 3), "symlinkat": (1, 2)}
LAST_OF_TWO = {"rename": (None, 1), "link": (None, 1), "symlink": (None, 1)}
AT_FIRST = ("openat", "openat2", "unlinkat", "mkdirat", "mknodat", "fchmodat", "fchownat", "utimensat")
PATHS = {
    **TWO_PATHS,
    **LAST_OF_TWO,
    **{name: (0, 1) for name in AT_FIRST},
    **{name: (None, 0) for name in ("open", "creat", "unlink", "mkdir", "rmdir", "chmod", "chown", "lchown")},
}
FD_AT = {"sendfile": 0, "copy_file_range": 2, "splice": 2}
# What changes the tree and not only its times and owners; a full disk does not
# refuse these two kinds.
NEEDS_NO_SPACE = ("unlinkat", "unlink", "rmdir", "fchmod", "fchmodat", "chmod", "fchown", "fchownat", "chown", "lchown",
                  "utimensat", "connect", "sendto", "recvfrom")
ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
COLUMN, AUDIT_ARCH = ARCHES[platform.machine()]
NUMBERS = {numbers[COLUMN]: name for name, numbers in CALLS.items() if numbers[COLUMN] is not None}
SECCOMP = (317, 277)[COLUMN]

ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
LOAD, EQUAL, SET, RETURN = 0x20, 0x15, 0x45, 0x06
RECEIVE, SEND = 0xC0502100, 0xC0182101
NEW_LISTENER, WAIT_KILLABLE = 1 << 3, 1 << 5
CREATES = os.O_CREAT | os.O_TRUNC
libc = ctypes.CDLL(None, use_errno=True)


def program_of_filter():
    """The filter: asks about the calls of the table, and about `open` only where it creates or cuts."""
    def op(code, k, yes=0, no=0):
        return struct.pack("HBBI", code, yes, no, k)

    ops = [op(LOAD, 4), op(EQUAL, AUDIT_ARCH, 1, 0), op(RETURN, ALLOW), op(LOAD, 0)]
    for number, name in NUMBERS.items():
        flags_at = {"openat": 2, "open": 1}.get(name)
        if flags_at is None:
            ops += [op(EQUAL, number, 0, 1), op(RETURN, NOTIFY)]
        else:
            ops += [
                op(EQUAL, number, 0, 4),
                op(LOAD, 16 + 8 * flags_at),
                op(SET, CREATES, 0, 1),
                op(RETURN, NOTIFY),
                op(RETURN, ALLOW),
            ]
    ops.append(op(RETURN, ALLOW))
    return ops


def install_filter():
    ops = program_of_filter()
    code = ctypes.create_string_buffer(b"".join(ops))
    program = struct.pack("HxxxxxxP", len(ops), ctypes.addressof(code))
    buffer = ctypes.create_string_buffer(program)
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "no_new_privs")
    listener = libc.syscall(SECCOMP, 1, NEW_LISTENER | WAIT_KILLABLE, buffer)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


def start(arguments):
    """Starts the program below the filter; gives its process id and the filter's descriptor."""
    ours, childs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            # sendmsg is not among the calls that wait for an answer.
            socket.send_fds(childs, [b"x"], [install_filter()])
            childs.close()
            ours.close()
            os.execvp(arguments[0], arguments)
        except BaseException as error:
            os.write(2, f"stages: {arguments[0]}: {error}\n".encode())
        os._exit(127)
    childs.close()
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        sys.exit("stages: the kernel refuses the filter")
    return pid, descriptors[0]


def text_at(pid, address):
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        data = memory.read(4096 - address % 4096)
        if b"\0" not in data:
            data += memory.read(4096)
    return os.fsdecode(data.split(b"\0")[0])


def path_of(pid, name, args):
    """What the call is about; None for its standard streams, and if it is gone."""
    try:
        if name not in PATHS:
            descriptor = args[FD_AT.get(name, 0)] & 0xFFFFFFFF
            # What it says is for the test and no stage.
            return None if descriptor <= 2 else os.readlink(f"/proc/{pid}/fd/{descriptor}")
        base_at, text = PATHS[name]
        path = text_at(pid, args[text]) if args[text] else ""
        if path.startswith("/"):
            return path
        descriptor = -100 if base_at is None else ctypes.c_int(args[base_at] & 0xFFFFFFFF).value
        base = os.readlink(f"/proc/{pid}/cwd" if descriptor == -100 else f"/proc/{pid}/fd/{descriptor}")
        return os.path.join(base, path) if path else base
    except OSError:
        return None


class Supervisor:
    def __init__(self, options, pid, listener):
        self.pid, self.listener = pid, listener
        self.at, self.what = options["at"], options["do"]
        self.under, self.outside, self.sockets = options["under"], options["outside"], options["sockets"]
        self.log = open(options["log"], "w") if options["log"] else None
        self.held_file, self.held = options["held"], None
        self.count = 0

    def counts(self, path):
        if path is None:
            return False
        if path.startswith("socket:"):
            return self.sockets
        if not path.startswith("/") or path.startswith(("/dev/", "/proc/")):
            return False
        below = lambda tops: any(path == top or path.startswith(top + "/") for top in tops)
        return (not self.under or below(self.under)) and not below(self.outside)

    def answer(self, call, error=0):
        response = struct.pack("QqiI", call, 0, -error, 0 if error else 1)
        # A program that was killed meanwhile waits for none.
        libc.ioctl(self.listener, ctypes.c_ulong(SEND), ctypes.create_string_buffer(response))

    def one_call(self):
        buffer = ctypes.create_string_buffer(80)
        if libc.ioctl(self.listener, ctypes.c_ulong(RECEIVE), buffer) < 0:
            return
        call, thread, _, number, _, _, *args = struct.unpack("QIIiIQ6Q", buffer.raw)
        name = NUMBERS[number]
        path = path_of(thread, name, args)
        if not self.counts(path):
            return self.answer(call)
        self.count += 1
        if self.log:
            self.log.write(f"{self.count} {name} {path!r}\n")
            self.log.flush()
        error = self.what.rstrip("+").upper()
        if not self.at or self.count < self.at:
            return self.answer(call)
        if hasattr(errno, error):
            if self.count > self.at and not self.what.endswith("+"):
                return self.answer(call)
            spared = error in ("ENOSPC", "EDQUOT") and name in NEEDS_NO_SPACE
            return self.answer(call, 0 if spared else getattr(errno, error))
        if self.count > self.at:
            return self.answer(call)
        if self.what == "hold":
            self.held = call
            open(self.held_file, "w").close()
            return None
        os.kill(self.pid, {"kill": signal.SIGKILL, "int": signal.SIGINT, "term": signal.SIGTERM}[self.what])
        if self.what != "kill":
            self.answer(call)
        return None

    def release(self, *_):
        if self.held is not None:
            self.answer(self.held)
            self.held = None

    def run(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(self.pid, number))
        signal.signal(signal.SIGUSR1, self.release)
        ended = os.pidfd_open(self.pid)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(self.listener, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if ready.get(self.listener, 0) & select.POLLIN:
                self.one_call()
            elif ended in ready:
                return os.waitpid(self.pid, 0)[1]
            elif self.listener in ready:  # nobody is below the filter any more
                poll.unregister(self.listener)


def main():
    options = {"at": 0, "do": "kill", "under": [], "outside": [], "sockets": False, "log": None, "held": None}
    arguments = sys.argv[1:]
    while arguments and arguments[0] != "--":
        name, _, value = arguments.pop(0)[2:].partition("=")
        if name == "sockets":
            options[name] = True
        elif name in ("under", "outside"):
            options[name].append(value.rstrip("/"))
        elif name == "at":
            options[name] = int(value)
        else:
            options[name] = value
    supervisor = Supervisor(options, *start(arguments[1:]))
    status = supervisor.run()
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.pause()
    sys.exit(os.WEXITSTATUS(status))


main()
