"""What every command shares: flags and errors, lines and progress, metrics, work directories."""
