"""Everything that trains the embedded model or needs its drawings."""
