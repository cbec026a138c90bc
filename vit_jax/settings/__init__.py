"""Settings: the fields of a schema, and sections that record who set each value."""
