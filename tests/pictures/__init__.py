"""The pictures of the documentation, drawn from a real drill in the lab: `make pictures`."""
