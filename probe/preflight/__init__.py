"""`haprobe preflight`."""
