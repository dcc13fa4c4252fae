"""A lab of several machines: network namespaces, real PostgreSQL servers with control's real schema, real nodes."""

from . import control
from .cluster import Cluster, cluster
from .database import HostedPostgres, make_golden
from .machine import Machine, build_release, wait_until
from .network import Host, Network, NoNetwork, network, why_no_network
from .outages import OUTAGES, Outcome, ride_out
from .scenes import SITES, busy_cluster, remembers, visited
from .visitors import Count, Visitors

__all__ = [
    "OUTAGES",
    "SITES",
    "Cluster",
    "Count",
    "Host",
    "HostedPostgres",
    "Machine",
    "Network",
    "NoNetwork",
    "Outcome",
    "Visitors",
    "build_release",
    "busy_cluster",
    "cluster",
    "control",
    "make_golden",
    "network",
    "remembers",
    "ride_out",
    "visited",
    "wait_until",
    "why_no_network",
]
