"""The command attend: what it draws of which images, and the files that it writes."""
