"""Image formats: what Pillow reads wrong, or at any cost, is told from the bytes of a file."""
