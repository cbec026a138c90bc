"""Convert between the weight files of other libraries and our run folders."""
