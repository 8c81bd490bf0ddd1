"""What the machine does beside a measurement: work of other processes, time stolen by the host."""
import os
import pathlib
import re
import resource
import sys
import time

QUIET = 0.05  # share of the processors above which other work disturbs a measurement


class Clock:
    """Measures from its making on what share of all processors was used by processes that are not ours or our
    ended children, and what share the host stole."""

    def __init__(self):
        self.begin = self.read()

    @staticmethod
    def read():
        """Seconds: in all, busy, stolen, of ours; each summed over the processors."""
        words = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        user, nice, system, idle, iowait, irq, softirq, steal = (int(word) / os.sysconf("SC_CLK_TCK") for word in words[:8])
        ours = sum(usage.ru_utime + usage.ru_stime for usage in
                   (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)))
        busy = user + nice + system + irq + softirq
        return busy + idle + iowait + steal, busy, steal, ours

    def shares(self):
        """{"foreign": ..., "steal": ...} since the making, each from 0 to 1."""
        total, busy, steal, ours = (now - then for now, then in zip(self.read(), self.begin))
        return {"foreign": max(0.0, busy - ours) / total, "steal": steal / total} if total > 0 else {"foreign": 0.0, "steal": 0.0}


def demand_quiet(even_if_busy, seconds=3):
    """Ends the program with a message if other processes work, or warns where `even_if_busy`."""
    clock = Clock()
    time.sleep(seconds)
    shares = clock.shares()
    if max(shares.values()) <= QUIET:
        return
    message = (f"other processes use {100 * shares['foreign']:.0f} % of the processors, the host steals "
               f"{100 * shares['steal']:.0f} % (measured for {seconds} s; expected at most {100 * QUIET:.0f} %)")
    if not even_if_busy:
        sys.exit(f"{message}: numbers would mean little. Stop them, or measure all the same with --even-if-busy.")
    print(f"warning: {message}: numbers mean little", file=sys.stderr, flush=True)


def describe():
    """{"processor": name, "processors": those this process may use, "huge_pages": setting}."""
    name = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    pages = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", pages.read_text()) if pages.exists() else None
    return {"processor": name[1] if name else "unknown", "processors": len(os.sched_getaffinity(0)),
            "huge_pages": chosen[1] if chosen else "unknown"}
