"""Hosts for benchmarks: network namespaces of this machine (cluster/lab, which needs root)."""
import contextlib
import sys

import models
import programs

LAB = models.ROOT / "cluster/lab"


@contextlib.contextmanager
def two_hosts(lab, who):
    """The lab with two hosts; one that stands already is used. who: names the program in messages."""
    listed = programs.run([lab, "list"]).split("\n")[:-1]
    if len(listed) not in (0, 2):
        sys.exit(f"{who}: the lab has {len(listed)} hosts, expected 2; take it away with: cluster/lab down")
    if not listed:
        programs.run([lab, "up", 2])
    try:
        yield
    finally:
        if not listed:
            programs.run([lab, "down"])


def address_of(lab, number):
    return programs.run([lab, "list"]).split("\n")[number - 1].split()[2]


def serve_flags(lab, folder, numbers):
    """What makes `tandem serve` start its ranks on these hosts, one each; it has to run on the first of them."""
    hostfile = folder / "hosts"
    hostfile.write_text("".join(f"{address_of(lab, number)} slots=1\n" for number in numbers))
    arguments = (f"--map-by node --mca plm_rsh_agent {LAB}_rsh --mca orte_keep_fqdn_hostnames 1 --mca oob_tcp_if_include eth0 "
                 "--mca btl_tcp_if_include eth0 --mca btl tcp,self,vader")
    return ["--hostfile", hostfile, "--mpirun-arguments", arguments]
