"""haprobe: packet-level failover measurement for FortiGate HA pairs in AWS."""

__version__ = "0.1.0"
