"""What all commands share: flags, errors, progress lines, metrics files, work directories."""
