"""What a person reads: the result document, its text and HTML renderings, merging and comparing."""
