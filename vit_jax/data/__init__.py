"""Input: sources of images, transforms of one image, and the stream of batches."""
