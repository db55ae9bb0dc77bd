"""Golden cases: numbers of the authors' own code, read from data, compared at the tolerance that each case states."""
