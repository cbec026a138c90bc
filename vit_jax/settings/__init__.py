"""Settings by themselves: fields of a schema, and sections that remember who set what."""
