"""Reports of runs: HTML pages that need no server and no network."""
