"""The probing loops, each joining core, wire and link: Session-Sender and Session-Reflector."""
