"""What the processes of a session take."""
import os
import pathlib


def taken(session):
    """Bytes of memory that all processes of a session have, and seconds of processors that they have used."""
    memory, seconds = 0, 0.0
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(words[3]) == session:
                memory += int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                seconds += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError):
            continue
    return memory, seconds
