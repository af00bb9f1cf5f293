"""What a run leaves behind: the schema, reading, writing and checking records. No torch."""
