"""Everything is decided here before anything is made. Knows no Ray."""
