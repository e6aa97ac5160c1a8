"""The namespace lab: the workshop's network, firewalls and cloud on one machine."""
