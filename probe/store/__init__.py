"""What is kept on disk: the journal of an agent, and stored runs."""
