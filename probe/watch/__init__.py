"""Watchers of HA state: one source per module, each an observer that may fail without harm."""
