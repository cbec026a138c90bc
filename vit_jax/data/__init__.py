"""The input pipeline: image sources, transforms, and the stream of batches."""
