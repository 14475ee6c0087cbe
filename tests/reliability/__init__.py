"""One file for each promise: what must hold under faults and bad input, shown with real faults."""
