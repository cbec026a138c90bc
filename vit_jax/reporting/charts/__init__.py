"""Charts: pure functions from data to inline SVG that a pointer and a keyboard can read."""
