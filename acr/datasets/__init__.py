"""Data sets: what each kind needs to be there, and the splits that the pipeline reads of it."""
