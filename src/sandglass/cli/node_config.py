"""
The server's settings as what a node is made of.

Only for a process that serves: the bare wheel doesn't bring what this imports.
"""

from datetime import timedelta

from sandglass.cli.joining import Joining
from sandglass.cli.version import version_number
from sandglass.node import ClusterSettings, NodeConfig
from sandglass.settings import Settings


def config_of(settings: Settings, joining: Joining) -> NodeConfig:
    """What a node with these settings is made of."""
    return NodeConfig(
        data=settings.data,
        name=settings.name,
        bind_addr=settings.bind_addr,
        grpc_port=settings.grpc_port,
        http_port=settings.http_port,
        http_hosts=(*settings.http_hosts, settings.advertise_addr),
        session_grace_ms=settings.session_grace // timedelta(milliseconds=1),
        stop_grace_ms=settings.stop_grace // timedelta(milliseconds=1),
        cluster=_cluster_of(settings, joining),
        version=version_number(),
    )


def _cluster_of(settings: Settings, joining: Joining) -> ClusterSettings | None:
    """None for a node alone."""
    if not joining.peers and joining.given is None:
        return None
    return ClusterSettings(
        client_port=settings.raft_port,
        route_port=settings.gossip_port,
        peers=joining.peers,
        is_founder=settings.bootstrap_raft,
        secret=joining.secret,
        advertise_host=settings.advertise_addr,
        engine_binary=settings.engine_binary,
        engine_tls=joining.engine_tls,
        given=joining.given,
        snapshot_bytes=settings.snapshot_bytes,
        snapshot_folder=settings.snapshot_folder,
    )
