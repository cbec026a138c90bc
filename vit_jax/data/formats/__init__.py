"""Image formats: checks of a file's bytes for what Pillow decodes incorrectly or at a high cost."""
